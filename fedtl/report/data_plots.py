"""Plots of rows and of how silos differ. With many silos they show shares and distributions instead of names."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize

from fedtl.report.heat_colours import DIVERGING, INK_OF_NUMBERS, RISING, STRONG
from fedtl.report.plots import (
    INK,
    MAX_NAMED_SILOS,
    PALETTE,
    draw_legend,
    label_axes,
    label_rows,
    new_figure,
    to_svg,
)
from fedtl.results.data_report import DataReport, Separation

MAX_COLOURED_LABELS = 12  # with more labels, none has a colour of its own
LIMIT = 2.0  # standard deviations, from which a difference has the darkest colour


def label_bars(report: DataReport) -> str:
    """Training rows of each silo by label; with many silos or labels, the share of each label."""
    counts = {name: silo.trained for name, silo in report.silos.items() if silo.trained}
    labels = list(dict.fromkeys(label for own in counts.values() for label in own))
    title = "Labels of training rows"
    if len(counts) > MAX_NAMED_SILOS or len(labels) > MAX_COLOURED_LABELS:
        shares = np.array(
            [[own.get(label, 0) / sum(own.values()) for label in labels] for own in counts.values()]
        )
        return _heat(
            "labels", title, (list(counts), labels), shares, (RISING, 0, 1, "share of the silo's rows")
        )
    figure, axes = new_figure(0.32 * len(counts) + 1.3)
    keys: dict[str, Artist] = {}
    left = np.zeros(len(counts))
    for at, label in enumerate(sorted(labels)):
        rows = np.array([own.get(label, 0) for own in counts.values()])
        colour, hatch = PALETTE[at % len(PALETTE)], "" if at < len(PALETTE) else "//"
        bars = axes.barh(
            range(len(counts)), rows, 0.7, left, color=colour, hatch=hatch, edgecolor="white", lw=0.5
        )
        keys[label] = bars[0]
        left += rows
    label_rows(axes, list(counts))
    label_axes(axes, title, "training rows", "")
    draw_legend(axes, keys)
    return to_svg(figure, "labels")


def value_ranges(report: DataReport) -> str:
    """The target of a regression at each silo: its range, and its mean with one standard deviation."""
    values = {name: silo.values for name, silo in report.silos.items() if silo.values}
    few = len(values) <= MAX_NAMED_SILOS
    if not few:
        values = dict(sorted(values.items(), key=lambda item: item[1]["mean"]))
    figure, axes = new_figure((0.32 if few else 0.06) * len(values) + 1.3)
    rows = range(len(values))
    low, high, mean, std = (
        np.array([own[key] for own in values.values()]) for key in ("low", "high", "mean", "std")
    )
    keys: dict[str, Artist] = {
        "lowest to highest": axes.hlines(rows, low, high, color="#b5b5b5", lw=1),
        "one standard deviation": axes.hlines(
            rows, mean - std, mean + std, color=PALETTE[0], lw=3 if few else 1.5
        ),
        "mean": axes.plot(mean, rows, "o", color=INK, ms=5 if few else 2)[0],
    }
    label_rows(axes, list(values) if few else [""] * len(values))
    label_axes(axes, "Target of training rows", "value", "" if few else f"{len(values)} silos by their mean")
    draw_legend(axes, keys)
    return to_svg(figure, "values")


def separation_dots(inputs: Mapping[str, Separation]) -> str:
    """How well a classifier distinguishes each silo's rows from those of all others, with intervals; chance is 0.5."""
    few = len(inputs) <= MAX_NAMED_SILOS
    rows = sorted(inputs.items(), key=lambda item: -item[1].auc)
    figure, axes = new_figure((0.32 if few else 0.06) * len(rows) + 1.3)
    places, ends = range(len(rows)), np.array([one.ci95 for _, one in rows])
    axes.hlines(places, ends[:, 0], ends[:, 1], color=PALETTE[0], lw=1.5 if few else 0.6)
    axes.plot([one.auc for _, one in rows], places, "o", color=PALETTE[0], ms=5 if few else 2)
    chance = axes.axvline(0.5, color=INK, lw=1.2, ls="--")
    label_rows(axes, [name for name, _ in rows] if few else [""] * len(rows))
    many = "" if few else f"{len(rows)} silos, the most different first"
    label_axes(axes, "Can a classifier tell a silo's inputs from all others?", "AUC with 95 % interval", many)
    draw_legend(axes, {"chance": chance})
    return to_svg(figure, "separations")


def pair_matrix(pairs: Mapping[str, Separation]) -> str:
    """How well a classifier distinguishes each two silos."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair.split(", ")))
    table = np.full((len(names), len(names)), np.nan)
    for pair, one in pairs.items():
        row, column = (names.index(name) for name in pair.split(", "))
        table[row, column] = table[column, row] = one.auc
    title = "Can a classifier tell two silos' inputs apart?"
    return _heat("pairs", title, (names, names), table, (RISING, 0.5, 1, "AUC; 0.5 is chance"))


def difference_map(differences: Mapping[str, Mapping[str, float]]) -> str:
    """The mean of each feature at each silo, against the mean of all silos, in standard deviations."""
    features = list(dict.fromkeys(feature for own in differences.values() for feature in own))
    table = np.array([[own.get(feature, np.nan) for feature in features] for own in differences.values()])
    look = (DIVERGING, -LIMIT, LIMIT, "standard deviations")
    return _heat(
        "features", "Means of inputs, minus the mean of all silos", (list(differences), features), table, look
    )


Look = tuple[Colormap, float, float, str]  # the colours, the values of both ends, and what they mean


def _heat(
    key: str, title: str, names: tuple[Sequence[str], Sequence[str]], table: np.ndarray, look: Look
) -> str:
    """A table of coloured cells, with numbers where they fit; a cell without a value is grey."""
    rows, columns = names
    few = len(rows) <= MAX_NAMED_SILOS
    height = (0.32 if few else 0.05) * len(rows) + 1.3 + 0.07 * max(map(len, columns))
    figure, axes = new_figure(max(3.0, height))
    printed = few and len(columns) <= MAX_NAMED_SILOS
    colours, low, high, meaning = look
    colours = colours if printed else STRONG[colours.name]
    axes.set_facecolor("#cccccc")
    axes.grid(False)
    axes.imshow(
        np.ma.masked_invalid(table), cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="none"
    )
    if printed:
        _write_values(axes, table)
    label_rows(axes, list(rows) if few else [""] * len(rows))
    every = max(1, len(columns) // 40 + 1)
    shown = range(0, len(columns), every)
    axes.set_xticks(list(shown), [columns[at] for at in shown], rotation=90, fontsize=8, parse_math=False)
    label_axes(axes, title, "", "" if few else f"{len(rows)} silos")
    figure.colorbar(ScalarMappable(Normalize(low, high), colours), ax=axes, label=meaning, shrink=0.9)
    return to_svg(figure, key)


def _write_values(axes: Axes, table: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=INK_OF_NUMBERS)
