"""How a figure is written. Knows metrics by name and nothing about where numbers come from."""

from collections.abc import Mapping
from typing import Any

IN_PERCENT = frozenset({"accuracy", "balanced_accuracy", "auc"})
TITLES = {
    "accuracy": "accuracy (%)",
    "balanced_accuracy": "balanced accuracy (%)",
    "auc": "AUC (%)",
    "loss": "loss",
    "r2": "R²",
    "rmse": "RMSE",
}


def scale(metric: str) -> float:
    return 100.0 if metric in IN_PERCENT else 1.0


def one(metric: str, value: float | None) -> str:
    """A value alone; a dash where it was not measured."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if metric in IN_PERCENT else f"{value:.3f}"


def with_interval(metric: str, figure: Mapping[str, Any] | None) -> str:
    """A mean and half the width of its 95 % interval."""
    if not figure:
        return "-"
    text = one(metric, figure["mean"])
    if not figure.get("ci95"):
        return text
    low, high = figure["ci95"]
    return f"{text} ± {one(metric, (high - low) / 2)}"


def half_interval(metric: str, benefit: Mapping[str, Any]) -> str:
    """A signed gain and half the width of its interval: the short form of ``difference``."""
    factor, digits = scale(metric), 1 if metric in IN_PERCENT else 3
    text = f"{factor * benefit['over_local']:+.{digits}f}"
    if benefit.get("ci95"):
        low, high = benefit["ci95"]
        text += f" ± {factor * (high - low) / 2:.{digits}f}"
    return text


def difference(metric: str, benefit: Mapping[str, Any]) -> str:
    """A signed gain with its interval."""
    factor, digits = scale(metric), 1 if metric in IN_PERCENT else 3
    text = f"{factor * benefit['over_local']:+.{digits}f}"
    if benefit.get("ci95"):
        low, high = (factor * bound for bound in benefit["ci95"])
        text += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return text
