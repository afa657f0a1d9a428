"""The plot of how far the probabilities of models can be trusted."""

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist

from fedtl.report.plots import (
    GREY,
    INK,
    MARKERS,
    MAX_NAMED_SILOS,
    PALETTE,
    draw_legend,
    label_axes,
    new_figure,
    to_svg,
)
from fedtl.results.page_facts import CalibrationBin, SiloAnswers

MIN_ROWS = 10  # of a point: the share of right answers among fewer rows says little
MAX_AREA = 90.0  # of a point with all rows of its silo, in square points


def calibration(answers: Mapping[str, SiloAnswers]) -> str:
    """
    A line for each silo through its bins (Guo et al., 2017), of which neighbours with few rows are one point: the share of right answers by
    the mean probability of the predicted class; the larger a point, the more of the silo's rows. On the diagonal, probabilities are true.
    """
    figure, axes = new_figure(4.2)
    keys: dict[str, Artist] = {
        "true probabilities": axes.plot([0, 100], [0, 100], color=INK, lw=1, ls="--")[0]
    }
    many = len(answers) > MAX_NAMED_SILOS
    for at, (name, own) in enumerate(answers.items()):
        total = sum(one.rows for one in own.calibration)
        colour, marker = (GREY, "o") if many else (PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)])
        points = merged(own.calibration)
        x, y = [100 * one.probability for one in points], [100 * one.right for one in points]
        (line,) = axes.plot(
            x, y, color=colour, lw=1, marker=marker, ms=4, ls="-" if at < len(PALETTE) else ":"
        )
        axes.scatter(
            x,
            y,
            s=[MAX_AREA * one.rows / total for one in points],
            color=colour,
            marker=marker,
            alpha=0.6,
            lw=0,
        )
        keys[f"each of {len(answers)} silos" if many else name] = line
    axes.set_ylim(-3, 103)
    label_axes(
        axes,
        "Are the probabilities true?",
        f"mean probability of the predicted class (%); a point has {MIN_ROWS} test rows or more",
        "right answers on test rows (%)",
    )
    draw_legend(axes, keys)
    return to_svg(figure, "calibration")


def merged(bins: Sequence[CalibrationBin]) -> list[CalibrationBin]:
    """Return the bins with neighbours joined until each has ``MIN_ROWS`` rows; what is left at the end joins the last."""
    points: list[CalibrationBin] = []
    for one in bins:
        if points and points[-1].rows < MIN_ROWS:
            one = _joined(points.pop(), one)
        points.append(one)
    if len(points) > 1 and points[-1].rows < MIN_ROWS:
        points[-2:] = [_joined(*points[-2:])]
    return points


def _joined(one: CalibrationBin, other: CalibrationBin) -> CalibrationBin:
    rows = one.rows + other.rows
    probability = (one.rows * one.probability + other.rows * other.probability) / rows
    return CalibrationBin(rows, probability, (one.rows * one.right + other.rows * other.right) / rows)
