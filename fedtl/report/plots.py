"""
Plots of runs and comparisons as inline SVG. The same input gives the same text; matplotlib's global state is not changed.

Words stay text, in the reader's fonts. Names are never parsed as mathematics and never hidden because of a leading "_".
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
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from fedtl.report.bounds import bounded
from fedtl.report.figures import CONSTANT, TITLES, Curve, all_silos, format_value, scale, silo_count_note
from fedtl.results.comparison import Comparison, Estimate
from fedtl.results.run import HistoryLine, RunResult

# Okabe and Ito (2008), without their yellow, and two more. The last two have a contrast below 3 to white: a darker orange would be the
# vermilion of readers who see no green.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D31", "#666666", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MAX_NAMED_SILOS = 12  # with more silos, a plot shows distributions instead of names
INK = "#222222"
GREY = "#8f8f8f"  # of lines that are too many for a colour each
MARGIN = 6  # pixels between a title and the edge of its figure
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def learning_curves(history: Sequence[HistoryLine], private: bool = False) -> str:
    """
    Validation results after 0, 1, 2, ... rounds of training: a line for each silo and a thick one for the mean.

    ``private``: the results are the noisy accuracies that silos released for the model they received.
    """
    names = sorted({name for line in history for name in line.silos})
    measured = {name for line in history for figures in line.silos.values() for name in figures}
    metric = next((name for name in sorted(measured) if name != "loss"), "loss" if measured else "accuracy")
    many, keys = len(names) > MAX_NAMED_SILOS, {}
    figure, axes = new_figure(4.2)
    for at, name in enumerate(names):
        points = [(line.round - 1, line.silos.get(name, {}).get(metric)) for line in history]
        colour, dash = (
            (GREY, "-") if many else (PALETTE[at % len(PALETTE)], "-" if at < len(PALETTE) else "--")
        )
        keys[name] = _line(axes, points, metric, color=colour, ls=dash, lw=0.7 if many else 1.3, alpha=0.8)
    means, counts = [], []
    for line in history:
        values = [figures[metric] for figures in line.silos.values() if metric in figures]
        means.append((line.round - 1, float(np.mean(values)) if values else None))
        counts.append(len(values))
    thick = _line(axes, means, metric, color=INK, lw=3)
    title, result = _curve_titles(private)
    label_axes(axes, title, "rounds of training", f"{result} {TITLES[metric]}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    own = {f"each of {len(names)} silos": next(iter(keys.values()))} if many else keys
    draw_legend(axes, {**own, f"mean{_count_note(counts, len(names))}": thick} if names else {})
    return to_svg(figure, "curves")


def epsilon_by_round(costs: Mapping[str, Mapping[int, float]]) -> str:
    """What the rounds of each silo have cost so far: a line for each silo, or one grey line for each of many."""
    figure, axes = new_figure(3.2)
    keys: dict[str, Artist] = {}
    many = len(costs) > MAX_NAMED_SILOS
    for at, (name, own) in enumerate(costs.items()):
        colour, marker = (GREY, "") if many else (PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)])
        wider = 0 if many else 6 * (len(costs) - 1 - at) / len(costs)  # silos of equal cost lie on each other
        (line,) = axes.step(list(own), list(own.values()), color=colour, where="post", alpha=0.8)
        line.set(marker=marker, markersize=4 + wider, linewidth=1.3 + wider / 2)
        keys[f"each of {len(costs)} silos" if many else name] = line
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_axes(axes, "What the rounds have cost so far, as the ledgers record", "round", "epsilon")
    draw_legend(axes, keys)
    return to_svg(figure, "epsilon")


def silo_bars(result: RunResult) -> str:
    """Test result of each silo's own model, with the number at the bar."""
    metric = result.metric
    measured = {name: silo.measured.figures for name, silo in result.silos.items()}
    rows = [(name, figures[metric]) for name, figures in measured.items() if metric in figures]
    figure, axes = new_figure(0.27 * len(rows) + 1.3)
    values = np.array([value for _, value in rows]) * scale(metric)
    bars = axes.barh(range(len(rows)), values, color=PALETTE[0], height=0.7)
    labels = [format_value(metric, value) for _, value in rows]
    clear = {
        "facecolor": "white",
        "edgecolor": "none",
        "pad": 1.0,
    }  # hides the line of the mean behind the number
    axes.bar_label(bars, labels, padding=4, fontsize=9, color=INK, bbox=clear)
    axes.margins(x=0.08)
    keys = {}
    if metric in result.mean:
        mean = result.mean[metric]
        count = silo_count_note(len(rows), len(result.silos))
        keys[f"mean, {format_value(metric, mean)}{count}"] = axes.axvline(
            mean * scale(metric), color=INK, lw=1.2, ls="--"
        )
    label_rows(axes, [name for name, _ in rows])
    label_axes(axes, "Test result of each silo", f"test {TITLES[metric]}", "")
    draw_legend(axes, keys)
    return to_svg(figure, "bars")


def method_dots(comparison: Comparison) -> str:
    """
    Test result of each method at each silo, with intervals; for many silos, the distribution over silos by method. Constant answers are left
    to the table: they are so far from all methods that these could not be distinguished.
    """
    metric, silos = comparison.metric, all_silos(comparison)
    methods = {name: figures for name, figures in comparison.methods.items() if name != CONSTANT}
    if len(silos) > MAX_NAMED_SILOS:
        return _method_boxes(metric, methods, len(silos))
    figure, axes = new_figure(max(2.6, (0.13 * len(methods) + 0.16) * len(silos) + 1.2))
    keys: dict[str, Artist] = {}
    for at, (method, figures) in enumerate(methods.items()):
        shift = (at - (len(methods) - 1) / 2) * 0.76 / len(methods)
        colour = PALETTE[at % len(PALETTE)]
        marker = MARKERS[
            (at + at // len(PALETTE)) % len(MARKERS)
        ]  # the ninth method has the colour of the first one, and another marker
        for row, silo in enumerate(silos):
            if score := figures.get(silo, {}).get(metric):
                if score.ci95:
                    span = np.array(bounded(metric, score.ci95)) * scale(metric)
                    axes.plot(span, [row + shift] * 2, color=colour, lw=1.4)
                (point,) = axes.plot(score.mean * scale(metric), row + shift, marker, color=colour, ms=5)
                keys.setdefault(method, point)
    for row in range(1, len(silos)):
        axes.axhline(row - 0.5, color="#dddddd", lw=0.8)
    label_rows(axes, silos)
    label_axes(
        axes, "Test result of each method at each silo", f"test {TITLES[metric]} with 95 % interval", ""
    )
    draw_legend(axes, keys)
    return to_svg(figure, "methods")


def convergence(
    curves: Mapping[str, Curve], silos: int, metric: str = "accuracy", private: bool = False
) -> str:
    """
    The mean validation result of each method after 0, 1, 2, ... rounds of training.

    ``silos``: how many there are. ``private``: the results are the noisy accuracies that silos released.
    """
    figure, axes = new_figure(4.2)
    keys = {}
    dashes = cycle(["-", "--", "-.", ":"])
    for at, (method, curve) in enumerate(curves.items()):
        points, look = (
            list(enumerate(curve.values)),
            {"color": PALETTE[at % len(PALETTE)], "ls": next(dashes)},
        )
        rounds = points if private else points[:-1]
        keys[f"{method}{_count_note(curve.silos, silos)}"] = _line(axes, rounds, metric, lw=2, **look)
        if (
            not private
        ):  # the finished model is another than those of the rounds: a dot, with a thin line to it
            _line(axes, points[-2:], metric, lw=0.8, alpha=0.6, **look)
            _line(axes, points[-1:], metric, color=look["color"])
    title, result = _curve_titles(private)
    x = (
        "rounds of training"
        if private
        else "rounds of training; the dots: the finished models, which the table scores"
    )
    label_axes(axes, title, x, f"{result} {TITLES[metric]}, mean over silos")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(axes, keys)
    return to_svg(figure, "convergence")


def _curve_titles(private: bool) -> tuple[str, str]:
    """The title of a plot of learning curves, and what its y axis shows."""
    if private:
        return "Released (noisy) accuracy of the received model by round, before local training", "released"
    return "Validation result by round", "validation"


def _count_note(counts: Sequence[int], silos: int) -> str:
    """The range of the numbers of silos that a line's means are over, if it is not all silos everywhere."""
    if not counts or min(counts) == silos:
        return ""
    low, high = min(counts), max(counts)
    return f" ({low} of {silos})" if low == high else f" ({low} to {high} of {silos})"


def _method_boxes(
    metric: str, methods: Mapping[str, Mapping[str, Mapping[str, Estimate]]], silos: int
) -> str:
    """A box for each method and on it a dot for each silo; dots are shifted so that they do not hide each other."""
    figure, axes = new_figure(0.55 * len(methods) + 1.3)
    for at, figures in enumerate(methods.values()):
        values = np.array([silo[metric].mean for silo in figures.values() if metric in silo]) * scale(metric)
        if len(values):
            line = {"color": INK}
            axes.boxplot(values, positions=[at], orientation="horizontal", widths=0.6, showfliers=False,
                         medianprops={"color": PALETTE[1], "lw": 2.5}, boxprops=line, whiskerprops=line, capprops=line)  # fmt: skip
            spread = at + 0.2 * (np.arange(len(values)) % 5 - 2) / 2
            axes.plot(values, spread, "o", color=PALETTE[0], ms=4, alpha=0.5, mew=0)
    counts = [sum(metric in silo for silo in figures.values()) for figures in methods.values()]
    names = [f"{name}{silo_count_note(count, silos)}" for name, count in zip(methods, counts, strict=True)]
    label_rows(axes, names)
    label_axes(
        axes, f"Test results of {silos} silos by method", f"test {TITLES[metric]}, one dot per silo", ""
    )
    return to_svg(figure, "methods")


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of the page's width and this height in inches, with one pair of axes."""
    figure = Figure(figsize=(8.6, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    return figure, axes


def _line(axes: Axes, points: Sequence[tuple[int, float | None]], metric: str, **look: Any) -> Line2D:
    """A line through the rounds that were measured; a dot if there is only one."""
    measured = [(at, value * scale(metric)) for at, value in points if value is not None]
    x, y = zip(*measured, strict=True) if measured else ((), ())
    return axes.plot(x, y, marker="o" if len(x) == 1 else "", **look)[0]


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names down the left side, the first at the top."""
    axes.set_yticks(range(len(names)), names, fontsize=10, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def label_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Set the title and the labels of both axes."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def draw_legend(axes: Axes, keys: Mapping[str, Artist]) -> None:
    """Put a legend to the right of the axes. Names are set afterwards, because as labels some have a meaning for matplotlib."""
    if keys:
        legend = axes.legend(
            list(keys.values()), list(map(str, range(len(keys)))), loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False
        )  # fmt: skip
        for text, name in zip(legend.get_texts(), keys, strict=True):
            text.set_text(name)
            text.set_parse_math(False)


def keep_titles_inside(figure: Figure) -> None:
    """Move a title that would end beyond the figure's right edge to the left: it begins at the axes, which long names of rows make narrow."""
    for axes in figure.axes:
        titles = [
            child for child in axes.get_children() if isinstance(child, Text) and child not in axes.texts
        ]
        for title in titles:
            beyond = title.get_window_extent().x1 - figure.bbox.x1 + MARGIN
            if title.get_text() and beyond > 0:
                title.set_x(title.get_position()[0] - beyond / axes.bbox.width)


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element. Its ids begin with ``name``, because a page holds several plots."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fedtl", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the reader's fonts draw the text
        if (
            layout := figure.get_layout_engine()
        ):  # savefig would draw everything once more to find the same places
            layout.execute(figure)
            figure.set_layout_engine(None)
            keep_titles_inside(figure)
        figure.savefig(text, format="svg", metadata=NO_METADATA)
    svg = text.getvalue()
    tag, reference = re.compile("<[^>]+>"), re.compile(r'(\bid="|href="#|url\(#)')
    return tag.sub(lambda match: reference.sub(rf"\g<1>{name}-", match[0]), svg[svg.index("<svg") :])
