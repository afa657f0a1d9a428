"""Plots of what transfers between silos: curves over the number of stages that are taken over."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedtl.report.bounds import largest_difference
from fedtl.report.figures import difference_unit, scale
from fedtl.report.plots import INK, MARKERS, PALETTE, draw_legend, label_axes, new_figure, to_svg
from fedtl.results.transferability import Begin, Spread, Transferability

CURVES = {
    Begin.A_TUNED: "the others' stages, fine-tuned",
    Begin.A: "the others' stages, frozen",
    Begin.B_TUNED: "its own stages, fine-tuned",
    Begin.B: "its own stages, frozen",
}
SHIFT = 0.05  # between the curves, so that intervals do not hide each other
SIMILAR = {"cka": "the others' model and its own", "cka_new": "two of its own, from different weights"}


def transfer_curves(result: Transferability) -> str:
    """The gain over training from scratch of each way to begin with n stages, with its interval over silos."""
    figure, axes = new_figure(4.4)
    new = next((point.gain for point in result.points if point.begin is Begin.NEW), None)
    keys: dict[str, Artist] = {}
    for at, (begin, name) in enumerate(CURVES.items()):
        values = [(0, new)] + [(point.stages, point.gain) for point in result.points if point.begin is begin]
        largest = largest_difference(result.metric)
        if line := _curve(axes, values, at, scale(result.metric), (-largest, largest)):
            keys[f"{begin}: {name}"] = line
    axes.axhline(0, color=INK, lw=1)
    if result.cut.stages:
        keys["recommended cut"] = axes.axvline(result.cut.stages, color="#999999", ls=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    rows = "validation" if result.deployed else "test"
    y = f"{rows} result minus that from scratch, {difference_unit(result.metric)}"
    label_axes(axes, "What the first stages of a model are worth at a silo", "stages taken over", y)
    draw_legend(axes, keys)
    return to_svg(figure, "transfer")


def similarity_curves(result: Transferability) -> str:
    """The similarity of models on a silo's own rows, stage by stage."""
    figure, axes = new_figure(3.4)
    keys: dict[str, Artist] = {}
    for at, (name, title) in enumerate(SIMILAR.items()):
        values = [(number, getattr(stage, name)) for number, stage in enumerate(result.measures, 1)]
        if line := _curve(axes, values, at, 1.0, (0.0, 1.0)):
            keys[title] = line
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_axes(axes, "How alike are models on a silo's own rows?", "stage", "linear CKA")
    draw_legend(axes, keys)
    return to_svg(figure, "similarity")


def _curve(
    axes: Axes,
    values: Sequence[tuple[int, Spread | None]],
    at: int,
    factor: float,
    limits: tuple[float, float],
) -> Artist | None:
    """Draw the means that there are, with their intervals as far as they lie between the ``limits``, and return the line."""
    points = [(x + (at - 1.5) * SHIFT, one) for x, one in values if one is not None]
    if not points:
        return None
    colour = PALETTE[at]
    for x, one in points:
        if one.ci95:
            ends = np.clip(one.ci95, *limits) * factor
            axes.plot([x, x], ends, color=colour, lw=1.2, alpha=0.7)
    (line,) = axes.plot(
        [x for x, _ in points],
        [one.mean * factor for _, one in points],
        color=colour,
        marker=MARKERS[at],
        ms=5,
        lw=1.6,
        ls="-" if at % 2 == 0 else "--",
    )
    return line
