"""Tables and notes of a comparison's page on verdicts: each method over all silos, and how verdicts are made."""

from fedtl._util.counted import counted
from fedtl.report.answer import BLIND, detectable_gains, limits_note, margin_text, verdict_counts
from fedtl.report.bounds import could_be_seen
from fedtl.report.figures import (
    TITLES,
    difference_unit,
    format_difference,
    format_short_difference,
    format_size,
)
from fedtl.report.html import Cell, Grid
from fedtl.results.comparison import Comparison, Overall, Verdict

CHOSEN = "chosen by the silos"


def benefit_cells(comparison: Comparison, silo: str) -> list[Cell]:
    """The best method of a silo, its gain, the verdict, and which gain would have been seen."""
    metric, benefit = comparison.metric, comparison.benefit[silo]
    gain = format_short_difference(metric, benefit.over_local, benefit.ci95)
    times = benefit.chosen.get(benefit.best)
    best = f"{benefit.best} ({times} of {sum(benefit.chosen.values())})" if times else benefit.best
    return [Cell(best), Cell(gain), verdict_cell(benefit.verdict), Cell(_seen(comparison, silo))]


def _seen(comparison: Comparison, silo: str) -> str:
    own = comparison.benefit[silo]
    if own.detectable is not None and could_be_seen(comparison, silo):
        return format_size(comparison.metric, own.detectable)
    gains = own.verdict is Verdict.GAINS  # although so large a gain was not expected to be possible
    return "-" if own.detectable is None or gains else "no gain"


def verdict_cell(verdict: Verdict) -> Cell:
    return Cell(verdict, verdict.replace(" ", "-"))


def overall_grid(comparison: Comparison) -> Grid:
    """Each method over all silos, and first what the silos choose."""
    chosen = {CHOSEN: comparison.joining} if comparison.joining else {}
    rows = [
        _overall_row(comparison.metric, name, own) for name, own in {**chosen, **comparison.overall}.items()
    ]
    head = [
        *("method", "mean gain", "verdict on the mean", "silos better", "silos not worse"),
        *("a loss is excluded at", "a loss is not shown at", "verdicts", "worst silo"),
    ]
    return Grid(
        f"Each method minus local over all silos, {TITLES[comparison.metric]}, with its 95 % interval",
        head,
        rows,
    )


def _overall_row(metric: str, name: str, own: Overall) -> list[Cell]:
    worst = format_difference(metric, own.worst_gain.mean, own.worst_gain.ci95)
    return [
        Cell(name),
        Cell(format_difference(metric, own.mean.mean, own.mean.ci95)),
        verdict_cell(own.mean.verdict),
        *(
            Cell(f"{count} of {own.silos} ({100 * count / own.silos:.0f}\u00a0%)")
            for count in (own.better, own.not_worse, own.loss_excluded, own.loss_not_shown)
        ),
        Cell(verdict_counts(own)),
        Cell(f"{own.worst}: {worst}"),
    ]


def verdict_notes(comparison: Comparison) -> list[str]:
    """How intervals and verdicts are made."""
    seeds, silos = len(comparison.seeds), len(comparison.benefit)
    rows = (
        f"Every row of a silo was a test row once a seed: each seed did {comparison.folds} runs, and each of them trained without "
        "the rows that it was tested on. The rows of all folds are pooled. Models of two folds share training rows, which the "
        "intervals do not contain (Bengio and Grandvalet, 2004)."
        if comparison.folds > 1
        else "Test rows are drawn anew for each seed where the data have no test rows of their own."
    )
    variation = (
        "With one seed, intervals do not contain how much a result changes from one training to the next; compare at least 3 seeds."
        if seeds == 1
        else f"Intervals contain how test rows vary and how the {seeds} seeds vary."
    )
    power = detectable_gains(comparison)
    return [
        rows,
        "Intervals: Student's t, with the jackknife over test rows (over units such as patients, where they are known) and the "
        "spread between seeds. A gain is paired: the same seeds and test rows with both methods. An interval is for one gain "
        f"alone. {variation}",
        f"Verdicts are corrected for looking at {counted(silos, 'silo')} (Benjamini and Hochberg, 1995): of the silos that are said "
        "to gain or to lose, at most 5 % are expected to be said so wrongly. So an interval may exclude zero where the verdict "
        "is unclear.",
        f"as good: the difference is shown to be within {margin_text(comparison)} of zero (compare.margin; two one-sided tests, "
        "Schuirmann, 1987), on whichever side. gains: shown to be above zero; loses: below; unclear: none of these.",
        "Detectable: the smallest true gain that an uncorrected interval would show to be above zero in 80 % of repetitions, "
        f"from the spread of the differences, {difference_unit(comparison.metric)}; no gain: that would be more than training alone "
        f"leaves to gain, so {BLIND}." + (f" Here, {power}." if power else ""),
        *(f"{note[0].upper()}{note[1:]}." for note in limits_note(comparison)),
        "Over all silos: the mean gives each silo the same weight, and its interval is about these silos, not about others. Silos "
        "better (above zero) and not worse (zero or above) count mean differences, noise included: the share of the first is "
        "the incentivised participation rate of Bao et al. (2023). A loss is excluded where the interval lies at zero or "
        "above, and not shown where it reaches zero.",
    ]
