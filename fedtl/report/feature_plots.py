"""The features of test rows before and after training, coloured by silo and by class."""

from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fedtl.report.plots import MARKERS, PALETTE, to_svg
from fedtl.results.page_facts import FeatureMap, FeaturePoint, Features

MAX_KEYS = 8  # silos or classes with a colour of their own; the others are grey
GREY = "#bbbbbb"


def feature_maps(features: Features) -> str:
    """Maps before and after training, coloured by silo and, where rows have a class, by class."""
    classes = any(point.label for point in features.after.points)
    columns: list[tuple[str, Callable[[FeaturePoint], str]]] = [("silo", lambda point: point.silo)]
    columns += [("class", lambda point: point.label)] if classes else []
    figure = Figure(figsize=(8.6, 3.5 * len(columns) + 0.4), layout="constrained")
    FigureCanvasSVG(figure)
    maps = [
        (when, drawn)
        for when, drawn in (("before", features.before), ("after", features.after))
        if drawn is not None
    ]
    axes = figure.subplots(len(columns), len(maps), squeeze=False)
    for row, (what, name_of) in enumerate(columns):
        names = list(dict.fromkeys(map(name_of, features.after.points)))
        for column, (when, drawn) in enumerate(maps):
            keys = _draw(axes[row][column], drawn, names, name_of)
            axes[row][column].set_title(
                f"features {when} training, by {what}", loc="left", fontsize=11, fontweight="bold"
            )
        _legend(axes[row][-1], keys)
    return to_svg(figure, "features")


def _draw(
    axes: Axes, drawn: FeatureMap, names: Sequence[str], name_of: Callable[[FeaturePoint], str]
) -> dict[str, Artist]:
    """Draw a map, and return a point of each name."""
    keys: dict[str, Artist] = {}
    for at, name in enumerate(names):
        own = [point for point in drawn.points if name_of(point) == name]
        colour, marker = (PALETTE[at], MARKERS[at]) if at < MAX_KEYS else (GREY, "o")
        x, y = [point.x for point in own], [point.y for point in own]
        keys[name if at < MAX_KEYS else "others"] = axes.plot(
            x, y, marker, color=colour, ms=5, alpha=0.6, mew=0
        )[0]
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    shares = " and ".join(f"{100 * share:.0f} %" for share in drawn.explained)
    axes.set_xlabel(f"two directions with {shares} of the variance", fontsize=9)
    return keys


def _legend(axes: Axes, keys: dict[str, Artist]) -> None:
    legend = axes.legend(
        list(keys.values()), list(map(str, range(len(keys)))), loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), keys, strict=True):
        text.set_text(name)
        text.set_parse_math(False)
