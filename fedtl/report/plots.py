"""
Plots as inline SVG. The only file that imports matplotlib; no global state, the same input gives the same text.

Words stay text, in the reader's own fonts. Names are text too: never mathematics, never hidden for a leading "_".
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedtl.report.figures import TITLES, Curve, one, over_silos, scale, silos_of
from fedtl.results.comparison import Comparison, Estimate, Verdict
from fedtl.results.run import HistoryLine, RunResult

# Okabe and Ito (2008), without their yellow, and two more
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
VERDICTS = {
    Verdict.GAINS: ("#009E73", ">"),
    Verdict.LOSES: ("#D55E00", "<"),
    Verdict.UNCLEAR: ("#7a7a7a", "o"),
}
MANY = 12  # silos; beyond, a plot shows distributions instead of names
INK = "#222222"
RECEIVED = "the model as received, before the silo trains it,"
NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}


def learning_curves(history: Sequence[HistoryLine], private: bool = False) -> str:
    """Validation figures after 0, 1, 2, ... rounds of training, a line a silo and a thick one for the mean."""
    names = sorted({name for line in history for name in line.silos})
    measured = {name for line in history for its in line.silos.values() for name in its}
    metric = "rmse" if "rmse" in measured else "accuracy"
    many, keys = len(names) > MANY, {}
    figure, axes = _figure(4.2)
    for at, name in enumerate(names):
        points = [(line.round - 1, line.silos.get(name, {}).get(metric)) for line in history]
        colour, dash = (
            ("#9a9a9a", "-") if many else (PALETTE[at % len(PALETTE)], "-" if at < len(PALETTE) else "--")
        )
        keys[name] = _line(axes, points, metric, color=colour, ls=dash, lw=0.7 if many else 1.3, alpha=0.8)
    means, counts = [], []
    for line in history:
        values = [its[metric] for its in line.silos.values() if metric in its]
        means.append((line.round - 1, float(np.mean(values)) if values else None))
        counts.append(len(values))
    thick = _line(axes, means, metric, color=INK, lw=3)
    title = f"How well does {RECEIVED if private else 'the model that a silo would use'} do, round by round?"
    _label(axes, title, "rounds of training", f"{'released' if private else 'validation'} {TITLES[metric]}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    own = {f"each of {len(names)} silos": next(iter(keys.values()))} if many else keys
    _legend(axes, {**own, f"mean{_counted(counts, len(names))}": thick} if names else {})
    return _svg(figure, "curves")


def silo_bars(result: RunResult) -> str:
    """Each silo's own model on its test rows, with the number at the bar."""
    metric, measured = result.metric, {name: its.measured.figures for name, its in result.silos.items()}
    rows = [(name, figures[metric]) for name, figures in measured.items() if metric in figures]
    figure, axes = _figure(0.27 * len(rows) + 1.3)
    values = np.array([value for _, value in rows]) * scale(metric)
    bars = axes.barh(range(len(rows)), values, color=PALETTE[0], height=0.7)
    axes.bar_label(bars, [one(metric, value) for _, value in rows], padding=4, fontsize=9, color=INK)
    axes.margins(x=0.08)
    keys = {}
    if metric in result.mean:
        mean = result.mean[metric]
        of = over_silos(len(rows), len(result.silos))
        keys[f"mean, {one(metric, mean)}{of}"] = axes.axvline(
            mean * scale(metric), color=INK, lw=1.2, ls="--"
        )
    _rows(axes, [name for name, _ in rows])
    _label(axes, "How does each silo fare?", f"test {TITLES[metric]}", "")
    _legend(axes, keys)
    return _svg(figure, "bars")


def benefit_forest(comparison: Comparison) -> str:
    """Per silo the gain of its best method over training alone, with its interval."""
    metric, factor = comparison.metric, scale(comparison.metric)
    rows = sorted(comparison.benefit.items(), key=lambda item: -item[1].over_local)
    figure, axes = _figure(0.27 * len(rows) + 1.3)
    keys: dict[str, Artist] = {}
    for at, (_, its) in enumerate(rows):
        colour, marker = VERDICTS[its.verdict]
        if its.ci95:
            axes.plot(np.array(its.ci95) * factor, [at, at], color=colour, lw=2.2, solid_capstyle="round")
        (point,) = axes.plot(its.over_local * factor, at, marker, color=colour, ms=7)
        keys.setdefault(its.verdict, point)
    axes.axvline(0, color=INK, lw=1)
    _rows(axes, [f"{name} ({its.best})" for name, its in rows])
    unit = "points" if factor == 100 else f"in {TITLES[metric]}"
    title = "Does joining help? Best method minus training alone"
    _label(axes, title, f"gain, {unit}, 95 % interval (right of the line is better)", "")
    _legend(axes, {verdict: keys[verdict] for verdict in VERDICTS if verdict in keys})
    return _svg(figure, "benefit")


def method_dots(comparison: Comparison) -> str:
    """Each method at each silo, with intervals; for many silos the spread over silos of each method."""
    metric, methods, silos = comparison.metric, comparison.methods, silos_of(comparison)
    if len(silos) > MANY:
        return _method_boxes(metric, methods, len(silos))
    figure, axes = _figure(max(2.6, (0.13 * len(methods) + 0.16) * len(silos) + 1.2))
    keys: dict[str, Artist] = {}
    for at, (method, figures) in enumerate(methods.items()):
        shift = (at - (len(methods) - 1) / 2) * 0.76 / len(methods)
        colour, marker = PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)]
        for row, silo in enumerate(silos):
            if its := figures.get(silo, {}).get(metric):
                if its.ci95:
                    span = np.array(its.ci95) * scale(metric)
                    axes.plot(span, [row + shift] * 2, color=colour, lw=1.4)
                (point,) = axes.plot(its.mean * scale(metric), row + shift, marker, color=colour, ms=5)
                keys.setdefault(method, point)
    for row in range(1, len(silos)):
        axes.axhline(row - 0.5, color="#dddddd", lw=0.8)
    _rows(axes, silos)
    _label(axes, "How does each silo fare under each method?", f"test {TITLES[metric]}, 95 % interval", "")
    _legend(axes, keys)
    return _svg(figure, "methods")


def convergence(
    curves: Mapping[str, Curve], silos: int, metric: str = "accuracy", private: bool = False
) -> str:
    """The mean validation figure by method, over so many silos, after 0, 1, 2, ... rounds of training."""
    figure, axes = _figure(4.2)
    keys = {}
    dashes = cycle(["-", "--", "-.", ":"])
    for at, (method, curve) in enumerate(curves.items()):
        points = list(enumerate(curve.values))
        of = _counted(curve.silos, silos)
        keys[f"{method}{of}"] = _line(
            axes, points, metric, color=PALETTE[at % len(PALETTE)], lw=2, ls=next(dashes)
        )
    if private:
        title, what, x = f"How well does {RECEIVED} do?", "released", "rounds of training"
    else:
        title, what = "How fast does each method get there?", "validation"
        x = "rounds of training; the last point is the model that the table scores"
    _label(axes, title, x, f"{what} {TITLES[metric]}, mean over silos")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, keys)
    return _svg(figure, "convergence")


def _counted(counts: Sequence[int], silos: int) -> str:
    """Over how many silos a line's means are, where some are over fewer than all."""
    if not counts or min(counts) == silos:
        return ""
    few, most = min(counts), max(counts)
    return f" ({few} of {silos})" if few == most else f" ({few} to {most} of {silos})"


def _method_boxes(
    metric: str, methods: Mapping[str, Mapping[str, Mapping[str, Estimate]]], silos: int
) -> str:
    """A box a method and over it a dot a silo, spread out by rank so that dots do not hide each other."""
    figure, axes = _figure(0.55 * len(methods) + 1.3)
    for at, figures in enumerate(methods.values()):
        values = np.array([its[metric].mean for its in figures.values() if metric in its]) * scale(metric)
        if len(values):
            line = {"color": INK}
            axes.boxplot(values, positions=[at], orientation="horizontal", widths=0.6, showfliers=False,
                         medianprops={"color": PALETTE[5], "lw": 2.5}, boxprops=line, whiskerprops=line, capprops=line)  # fmt: skip
            spread = at + 0.2 * (np.arange(len(values)) % 5 - 2) / 2
            axes.plot(values, spread, "o", color=PALETTE[0], ms=4, alpha=0.5, mew=0)
    counts = [sum(metric in its for its in figures.values()) for figures in methods.values()]
    _rows(axes, [f"{name}{over_silos(count, silos)}" for name, count in zip(methods, counts, strict=True)])
    _label(axes, f"How do {silos} silos fare under each method?", f"test {TITLES[metric]}, a dot a silo", "")
    return _svg(figure, "methods")


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.6, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    return figure, axes


def _line(axes: Axes, points: Sequence[tuple[int, float | None]], metric: str, **look: Any) -> Line2D:
    """A line over the rounds that were measured; a dot where there is one round only."""
    measured = [(at, value * scale(metric)) for at, value in points if value is not None]
    x, y = zip(*measured, strict=True) if measured else ((), ())
    return axes.plot(x, y, marker="o" if len(x) == 1 else "", **look)[0]


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names down the left side, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=10, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _legend(axes: Axes, keys: Mapping[str, Artist]) -> None:
    """Beside the axes. The names are put in afterwards: as labels, some would mean something to matplotlib."""
    if keys:
        legend = axes.legend(
            list(keys.values()), list(map(str, range(len(keys)))), loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False
        )  # fmt: skip
        for text, name in zip(legend.get_texts(), keys, strict=True):
            text.set_text(name)
            text.set_parse_math(False)


def _svg(figure: Figure, name: str) -> str:
    """The drawing alone. Its ids begin with ``name``: several plots stand in one page."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fedtl", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the reader's fonts have it
        figure.savefig(text, format="svg", metadata=NOTHING)
    svg = text.getvalue()
    tag, reference = re.compile("<[^>]+>"), re.compile(r'(\bid="|href="#|url\(#)')
    return tag.sub(lambda found: reference.sub(rf"\g<1>{name}-", found[0]), svg[svg.index("<svg") :])
