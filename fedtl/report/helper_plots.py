"""The heat map of who helps whom."""

from collections.abc import Iterator

from matplotlib.patches import Rectangle

from fedtl.report.figures import TITLES, difference_unit, format_short_difference
from fedtl.report.heat_colours import DIVERGING, INK_OF_NUMBERS, STRONG
from fedtl.report.plots import label_axes, new_figure, to_svg
from fedtl.results.comparison import Gain, Verdict, WhoHelps

MAX_PRINTED = 12  # silos whose values are printed into the cells
SHOWN = {Verdict.GAINS: "*", Verdict.LOSES: "*"}


def helpers(own: WhoHelps, metric: str) -> str:
    """
    A row for each silo that was left out, a column for each silo that is scored: blue where the first one helps, red where it harms. The
    colours are symmetric about zero.
    """
    rows, columns = list(own.gains), sorted({name for gains in own.gains.values() for name in gains})
    largest = max((abs(gain.mean) for _, _, gain in _cells(own, columns)), default=0.0) or 1.0
    few = max(len(rows), len(columns)) <= MAX_PRINTED
    figure, axes = new_figure((0.5 if few else 0.26) * len(rows) + 2.2)
    axes.grid(visible=False)
    colours = DIVERGING if few else STRONG[DIVERGING.name]
    for row, column, gain in _cells(own, columns):
        share = gain.mean / largest
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colours((share + 1) / 2), edgecolor="white")
        )
        if few:
            text = format_short_difference(metric, gain.mean, None) + SHOWN.get(gain.verdict, "")
            axes.text(column, row, text, ha="center", va="center", color=INK_OF_NUMBERS, fontsize=9)
    for at, name in enumerate(rows):
        if name in columns:
            axes.text(columns.index(name), at, "-", ha="center", va="center", color="#6e6e6e")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_xticks(range(len(columns)), columns, fontsize=9, rotation=30 if few else 90, ha="right" if few else "center", parse_math=False)  # fmt: skip
    axes.set_yticks(range(len(rows)), rows, fontsize=9, parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    title = f"Who helps whom? Test {TITLES[metric].removesuffix(' (%)')} with the silo minus without it, {difference_unit(metric)}"
    largest_text = format_short_difference(metric, largest, None).lstrip("+")
    x = f"at this silo (blue: it is better off, red: worse off; strongest colour: {largest_text})"
    label_axes(axes, title, x, "the silo that helps")
    return to_svg(figure, "helpers")


def _cells(own: WhoHelps, columns: list[str]) -> Iterator[tuple[int, int, Gain]]:
    for row, gains in enumerate(own.gains.values()):
        for name, gain in gains.items():
            yield row, columns.index(name), gain
