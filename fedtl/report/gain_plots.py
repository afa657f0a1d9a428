"""Plots of the gains of a comparison over training alone: by silo, and by method over all silos."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Polygon

from fedtl.report.bounds import bounded_gain
from fedtl.report.figures import TITLES, scale
from fedtl.report.plots import GREY, INK, draw_legend, label_axes, label_rows, new_figure, to_svg
from fedtl.results.comparison import Comparison, Gain, Interval, Verdict

VERDICTS = {
    Verdict.GAINS: ("#009E73", ">"),
    Verdict.AS_GOOD: ("#0072B2", "s"),
    Verdict.LOSES: ("#D55E00", "<"),
    Verdict.UNCLEAR: ("#7a7a7a", "o"),
}
MEAN = "mean of all silos"
MAX_NAMED_ROWS = 40  # with more silos, rows are narrow and have no names


def benefit_forest(comparison: Comparison) -> str:
    """For each silo the gain of what it chooses over local training, with its interval; below, the mean over silos."""
    rows = sorted(comparison.benefit.items(), key=lambda item: -item[1].over_local)
    few = len(rows) <= MAX_NAMED_ROWS
    figure, axes = new_figure((0.27 if few else 0.075) * (len(rows) + 2) + 1.4)
    keys: dict[str, Artist] = {}
    for at, (_, own) in enumerate(rows):
        keys.setdefault(
            own.verdict, _gain(axes, comparison.metric, at, (own.over_local, own.ci95, own.verdict), few)
        )
    names = [f"{name} ({own.best})" for name, own in rows] if few else [""] * len(rows)
    if comparison.joining and len(rows) > 1:
        axes.axhline(len(rows) - 0.5, color="#bbbbbb", lw=0.8)
        _diamond(
            axes,
            comparison.metric,
            len(rows) + (0 if few else 2),
            comparison.joining.mean,
            0.3 if few else 1.5,
        )
        names += [MEAN] if few else ["", "", MEAN, "", ""]
    _zero(axes, comparison)
    label_rows(axes, names)
    title = "Does joining help? The method that a silo chooses minus local training"
    label_axes(axes, title, _x_label(comparison), "" if few else f"{len(rows)} silos, the best first")
    draw_legend(axes, {verdict: keys[verdict] for verdict in VERDICTS if verdict in keys})
    return to_svg(figure, "benefit")


def mean_gains(comparison: Comparison) -> str:
    """The mean gain of each method over all silos, with its interval, and each silo's gain as a dot."""
    metric, rows = comparison.metric, list(comparison.overall.items())
    figure, axes = new_figure(0.42 * len(rows) + 1.4)
    keys: dict[str, Artist] = {}
    for at, (name, own) in enumerate(rows):
        gains = [gain.mean for gain in comparison.over_local.get(name, {}).values()]
        _dots(axes, metric, at, gains)
        keys.setdefault(
            own.mean.verdict, _gain(axes, metric, at, (own.mean.mean, own.mean.ci95, own.mean.verdict), True)
        )
    _zero(axes, comparison)
    label_rows(axes, [f"{name}: {own.not_worse} of {own.silos} not worse" for name, own in rows])
    label_axes(axes, "Mean gain of each method over all silos; one dot per silo", _x_label(comparison), "")
    draw_legend(axes, {f"mean: {verdict}": keys[verdict] for verdict in VERDICTS if verdict in keys})
    return to_svg(figure, "overall")


def _gain(
    axes: Axes, metric: str, at: int, gain: tuple[float, Interval | None, Verdict], large: bool
) -> Artist:
    """Draw a gain with its interval, and return its point."""
    mean, bounds, verdict = gain
    colour, marker = VERDICTS[verdict]
    if bounds:
        span = np.array(bounded_gain(metric, bounds)) * scale(metric)
        axes.plot(span, [at, at], color=colour, lw=2.2 if large else 0.9, solid_capstyle="round")
    (point,) = axes.plot(mean * scale(metric), at, marker, color=colour, ms=7 if large else 3)
    return point


def _diamond(axes: Axes, metric: str, at: float, gain: Gain, half: float) -> None:
    """Draw a mean as a diamond from one end of its interval to the other, as in a meta-analysis."""
    low, high = np.array(bounded_gain(metric, gain.ci95 or (gain.mean, gain.mean))) * scale(metric)
    middle = gain.mean * scale(metric)
    colour, _ = VERDICTS[gain.verdict]
    corners = [(low, at), (middle, at - half), (high, at), (middle, at + half)]
    axes.add_patch(Polygon(corners, closed=True, color=colour))
    axes.plot([low, high], [at, at], color=colour, lw=1)


def _dots(axes: Axes, metric: str, at: int, values: Sequence[float]) -> None:
    shifts = 0.22 * (np.arange(len(values)) % 5 - 2) / 2
    axes.plot(np.array(values) * scale(metric), at + shifts, "o", color=GREY, ms=3.5, alpha=0.6, mew=0)


def _zero(axes: Axes, comparison: Comparison) -> None:
    """Draw the line of no difference, and around it the margin within which a method is as good."""
    margins = {own.margin for own in comparison.benefit.values()}
    if len(margins) == 1 and (margin := margins.pop() * scale(comparison.metric)):
        axes.axvspan(-margin, margin, color="#0072B2", alpha=0.12, lw=0)
    axes.axvline(0, color=INK, lw=1)


def _x_label(comparison: Comparison) -> str:
    factor = scale(comparison.metric)
    unit = "percentage points" if factor == 100 else TITLES[comparison.metric]
    return f"difference ({unit}) with 95 % interval; right of zero, joining is better; shaded: as good"
