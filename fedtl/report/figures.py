"""How a figure is written, and in what words. Knows metrics by name and nothing about where numbers come from."""

from collections.abc import Mapping
from typing import Any

IN_PERCENT = frozenset({"accuracy", "balanced_accuracy", "auc"})
TITLES = {
    "accuracy": "accuracy (%)",
    "balanced_accuracy": "balanced accuracy (%)",
    "auc": "AUC (%)",
    "r2": "R²",
    "rmse": "RMSE",
    "loss": "loss",
}
LATE_ROWS = {
    "as_received": "as it came",
    "adabn": "after AdaBN",
    "head": "own head, initial statistics",
    "head_adabn": "own head after AdaBN",
    "alone": "trained alone on the same labels",
}


def scale(metric: str) -> float:
    """What a value is multiplied with before it is shown."""
    return 100.0 if metric in IN_PERCENT else 1.0


def one(metric: str, value: float | None) -> str:
    """A value alone; a dash where it was not measured."""
    return "-" if value is None else f"{scale(metric) * value:.{_digits(metric)}f}"


def with_interval(metric: str, figure: Mapping[str, Any] | None) -> str:
    """A mean and half the width of its 95 % interval."""
    if not figure:
        return "-"
    return one(metric, figure["mean"]) + _half(metric, figure.get("ci95"))


def half_interval(metric: str, benefit: Mapping[str, Any]) -> str:
    """A signed gain and half the width of its interval: the short form of ``difference``."""
    return _signed(metric, benefit["over_local"]) + _half(metric, benefit.get("ci95"))


def difference(metric: str, benefit: Mapping[str, Any]) -> str:
    """A signed gain with its interval."""
    text = _signed(metric, benefit["over_local"])
    if bounds := benefit.get("ci95"):
        text += f" [{', '.join(_signed(metric, bound) for bound in bounds)}]"
    return text


def shown(per_silo: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The metrics that at least one silo has, in the order in which they are shown."""
    return [metric for metric in TITLES if any(metric in its for its in per_silo.values())]


def silos_of(comparison: Mapping[str, Any]) -> list[str]:
    """Every silo that any method has."""
    return sorted({silo for its in comparison["methods"].values() for silo in its})


def _digits(metric: str) -> int:
    return 1 if metric in IN_PERCENT else 3


def _signed(metric: str, value: float) -> str:
    digits = _digits(metric)
    return f"{round(scale(metric) * value, digits) + 0.0:+.{digits}f}"  # + 0.0: no -0.0


def _half(metric: str, bounds: tuple[float, float] | None) -> str:
    return f" ±{one(metric, (bounds[1] - bounds[0]) / 2)}" if bounds else ""
