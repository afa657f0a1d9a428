"""The plot of a run in which silos interpolate between two models."""

from collections.abc import Mapping

from matplotlib.artist import Artist

from fedtl.report.plots import MARKERS, MAX_NAMED_SILOS, PALETTE, draw_legend, label_axes, new_figure, to_svg
from fedtl.results.run import Interpolated


def interpolation_curves(curves: Mapping[str, Interpolated]) -> str:
    """The validation loss of each silo between the weights of two models; a mark where the loss is lowest."""
    figure, axes = new_figure(3.8)
    keys: dict[str, Artist] = {}
    for at, (name, own) in enumerate(curves.items()):
        shares = [number / (len(own.curve) - 1) for number in range(len(own.curve))]
        colour = PALETTE[at % len(PALETTE)]
        (line,) = axes.plot(shares, own.curve, color=colour, lw=1.6, ls="-" if at < len(PALETTE) else "--")
        best = min(range(len(shares)), key=lambda number: own.curve[number])
        axes.plot(shares[best], own.curve[best], MARKERS[at % len(MARKERS)], color=colour, ms=7)
        keys[name] = line
    first, last = next(iter(curves.values())).ends
    label_axes(
        axes,
        "Loss between two models",
        f"share of the {last} model; 0 is the {first} model",
        "validation loss",
    )
    draw_legend(axes, keys if len(keys) <= MAX_NAMED_SILOS else {})
    return to_svg(figure, "interpolation")
