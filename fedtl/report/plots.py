"""Plots as inline SVG. The only file that imports matplotlib; no global state, the same input gives the same text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fedtl.report.figures import TITLES, scale

PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#8C6D31",
    "#666666",
)  # Okabe and Ito, 2008
VERDICTS = {"gains": "#009E73", "loses": "#D55E00", "unclear": "#8a8a8a"}
MANY = 12  # silos; beyond, a plot shows distributions instead of names


def learning_curves(history: Sequence[Mapping[str, Any]]) -> str:
    """How the received model did on validation rows, round by round, a line a silo and a thick one for the mean."""
    names = sorted({name for line in history for name in line["silos"]})
    metric = (
        "accuracy" if any("accuracy" in s for line in history for s in line["silos"].values()) else "rmse"
    )
    figure, axes = _figure(4.2)
    for at, name in enumerate(names):
        points = [
            (line["round"], line["silos"][name][metric])
            for line in history
            if metric in line["silos"].get(name, {})
        ]
        if points:
            x, y = zip(*points, strict=True)
            label = name if len(names) <= MANY else None
            axes.plot(
                x, np.array(y) * scale(metric), color=PALETTE[at % len(PALETTE)], lw=1, alpha=0.7, label=label
            )
    means = [
        (line["round"], np.mean([s[metric] for s in line["silos"].values() if metric in s]))
        for line in history
        if any(metric in s for s in line["silos"].values())
    ]
    if means:
        x, y = zip(*means, strict=True)
        axes.plot(x, np.array(y) * scale(metric), color="#222222", lw=2.5, label="mean")
    _label(
        axes, "How well does the received model do, round by round?", "round", f"validation {TITLES[metric]}"
    )
    _legend(axes)
    return _svg(figure)


def silo_bars(result: Mapping[str, Any]) -> str:
    """Each silo's own model on its test rows."""
    metric = result["metric"]
    rows = [(name, its[metric]) for name, its in result["silos"].items() if metric in its]
    figure, axes = _figure(max(2.2, 0.22 * len(rows) + 1.2))
    names, values = zip(*rows, strict=True) if rows else ((), ())
    axes.barh(range(len(rows)), np.array(values) * scale(metric), color=PALETTE[0], height=0.7)
    axes.set_yticks(range(len(rows)), names, fontsize=9 if len(rows) <= 40 else 6)
    axes.invert_yaxis()
    _label(axes, "How does each silo fare?", f"test {TITLES[metric]}", "")
    return _svg(figure)


def benefit_forest(comparison: Mapping[str, Any]) -> str:
    """Per silo the gain of its best method over training alone, with its interval."""
    metric, rows = (
        comparison["metric"],
        sorted(comparison["benefit"].items(), key=lambda item: -item[1]["over_local"]),
    )
    figure, axes = _figure(max(2.4, 0.24 * len(rows) + 1.3))
    factor = scale(metric)
    for at, (_, its) in enumerate(rows):
        colour = VERDICTS[its["verdict"]]
        if its.get("ci95"):
            axes.plot(np.array(its["ci95"]) * factor, [at, at], color=colour, lw=2.2, solid_capstyle="round")
        axes.plot(its["over_local"] * factor, at, "o", color=colour, ms=6)
    axes.axvline(0, color="#222222", lw=1)
    axes.set_yticks(
        range(len(rows)),
        [f"{name} ({its['best']})" for name, its in rows],
        fontsize=9 if len(rows) <= 40 else 6,
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    unit = "points" if factor == 100 else f"in {TITLES[metric]}"
    _label(
        axes,
        "Does joining help? Best method minus training alone",
        f"gain, {unit} (right of the line is better)",
        "",
    )
    return _svg(figure)


def method_dots(comparison: Mapping[str, Any]) -> str:
    """Each method at each silo, with intervals; for many silos the spread over silos of each method."""
    metric, methods = comparison["metric"], comparison["methods"]
    silos = sorted({silo for figures in methods.values() for silo in figures})
    factor = scale(metric)
    if len(silos) > MANY:
        figure, axes = _figure(0.5 * len(methods) + 1.6)
        values = [
            [its[metric]["mean"] * factor for its in figures.values() if metric in its]
            for figures in methods.values()
        ]
        axes.boxplot(
            values, orientation="horizontal", tick_labels=list(methods), medianprops={"color": PALETTE[5]}
        )
        axes.invert_yaxis()
        _label(axes, f"How do {len(silos)} silos fare under each method?", f"test {TITLES[metric]}", "")
        return _svg(figure)
    figure, axes = _figure(max(3.0, 0.62 * len(silos) + 1.4))
    for at, (method, figures) in enumerate(methods.items()):
        shift = (at - (len(methods) - 1) / 2) * 0.8 / len(methods)
        colour = PALETTE[at % len(PALETTE)]
        for row, silo in enumerate(silos):
            its = figures.get(silo, {}).get(metric)
            if its:
                label = method if row == 0 else None
                axes.plot(its["mean"] * factor, row + shift, "o", color=colour, ms=5, label=label)
                if its["ci95"]:
                    axes.plot(np.array(its["ci95"]) * factor, [row + shift] * 2, color=colour, lw=1.4)
    for row in range(1, len(silos)):
        axes.axhline(row - 0.5, color="#e5e5e5", lw=0.8)
    axes.set_yticks(range(len(silos)), silos)
    axes.set_ylim(len(silos) - 0.5, -0.5)
    _label(axes, "How does each silo fare under each method?", f"test {TITLES[metric]}, 95 % interval", "")
    _legend(axes)
    return _svg(figure)


def convergence(curves: Mapping[str, Sequence[float]], metric: str) -> str:
    """The mean validation figure of the received models, by method."""
    figure, axes = _figure(4.2)
    for at, (method, values) in enumerate(curves.items()):
        axes.plot(
            range(1, len(values) + 1),
            np.array(values) * scale(metric),
            color=PALETTE[at % len(PALETTE)],
            lw=1.8,
            label=method,
        )
    _label(
        axes, "How fast does each method get there?", "round", f"validation {TITLES[metric]}, mean over silos"
    )
    _legend(axes)
    return _svg(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.6, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    return figure, axes


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _svg(figure: Figure) -> str:
    with matplotlib.rc_context({"svg.hashsalt": "fedtl", "svg.fonttype": "path"}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
