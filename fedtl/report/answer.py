"""
The sentence on top of a comparison. It must be true for a reader who reads nothing else: it says what was shown, and never
takes what was not shown for its opposite.
"""

from collections.abc import Sequence

from fedtl._util.counted import counted
from fedtl.report.bounds import bounded_gain, could_be_seen, gains_shown, largest_difference, passes_limits
from fedtl.report.figures import TITLES, all_silos, difference_unit, format_gain, format_size
from fedtl.results.comparison import Comparison, Overall, Verdict

ENSEMBLE = "local ensemble"  # the label of two local models, averaged
MAX_NAMED_SILOS = 6  # the answer names the silos of a verdict only up to this number
BLIND = "no gain could have been seen in 4 of 5 repetitions with so few rows and seeds"
OTHERS = {  # verdicts other than "gains", for one silo and for several
    Verdict.AS_GOOD: ("is as good as alone", "are as good as alone"),
    Verdict.LOSES: ("loses", "lose"),
    Verdict.UNCLEAR: ("is unclear", "are unclear"),
}
MEAN = {
    Verdict.GAINS: "a gain",
    Verdict.AS_GOOD: "too small to matter",
    Verdict.LOSES: "a loss",
    Verdict.UNCLEAR: "not shown to be a gain or a loss",
}


def answer(comparison: Comparison) -> str:
    """How many silos are shown to gain, which of the others are as good, lose or are unclear, and the mean over silos."""
    benefit = comparison.benefit
    if comparison.chosen_on is None:
        return "No best method is named: it would be chosen on private rows."
    if not benefit:
        return (
            "No comparison: it needs local and at least one federated method, both measured at the same silo."
        )
    gaining = sum(own.verdict is Verdict.GAINS for own in benefit.values())
    count = len(benefit)
    verb = "is" if 1 in (gaining, count) else "are"
    parts = [f"{gaining} of {counted(count, 'silo')} {verb} shown to gain by joining"]
    for verdict, (one, several) in OTHERS.items():
        if names := [name for name, own in benefit.items() if own.verdict is verdict]:
            who = "all" if 1 < len(names) == count else _who(names)
            parts.append(f"{who} {one if len(names) == 1 else several}")
    if missing := len(all_silos(comparison)) - count:
        parts.append(f"{missing} more cannot be compared")
    whole = [f"{'; '.join(parts)}."]
    if comparison.joining and count > 1:
        whole.append(_mean(comparison.metric, comparison.joining))
        if ensemble := comparison.overall.get(ENSEMBLE):
            alone = format_gain(comparison.metric, ensemble.mean.mean)
            whole.append(f"Averaging two models that a silo trained alone gives {alone} without joining.")
    return " ".join(whole)


def detectable_gains(comparison: Comparison) -> str:
    """Which true gains the test rows of the unclear silos would have shown, in 80 % of repetitions; where none, it says so."""
    unclear = {name: own for name, own in comparison.benefit.items() if own.verdict is Verdict.UNCLEAR}
    known = {name: own.detectable for name, own in unclear.items() if own.detectable is not None}
    seen = sorted(size for name, size in known.items() if could_be_seen(comparison, name))
    blind = len(known) - len(seen)
    which = "that silo" if len(unclear) == 1 else "those silos, each by itself,"
    parts = []
    if seen:
        low, high = (format_size(comparison.metric, size) for size in (seen[0], seen[-1]))
        span = low if low == high else f"{low} to {high}"
        unit = difference_unit(comparison.metric)
        parts = [f"the test rows of {which} would show a true gain of {span} {unit} in 4 of 5 repetitions"]
    if blind:
        where = f"at {blind} of {len(unclear)}" if seen else f"at {which.removesuffix(',')}"
        parts.append(f"{where}, {BLIND}")
    return f"unclear: {'; '.join(parts)}" if parts else ""


def limits_note(comparison: Comparison) -> list[str]:
    """What an interval means that ends where the metric does; nothing where no interval of a gain would go further."""
    metric = comparison.metric
    if not passes_limits(metric, gains_shown(comparison)):
        return []
    largest = format_gain(metric, largest_difference(metric))
    return [
        f"an interval of a gain that ends at {largest.replace('+', '±', 1)} is cut there, at the largest "
        f"difference that {TITLES[metric].removesuffix(' (%)')} can have: there are too few rows and seeds"
    ]


def margin_text(comparison: Comparison) -> str:
    """Up to which difference two methods are as good as each other."""
    if comparison.metric == "rmse":
        return f"{comparison.margin:g} standard deviations of the silo's labels"
    return f"{format_size(comparison.metric, comparison.margin)} {difference_unit(comparison.metric)}"


def verdict_counts(own: Overall) -> str:
    """How many silos have each verdict: "3 gains, 1 unclear"."""
    return ", ".join(f"{count} {verdict}" for verdict, count in own.verdicts.items() if count)


def _mean(metric: str, joining: Overall) -> str:
    gain = joining.mean
    text = f"Over these {joining.silos} silos, the mean gain over training alone is {format_gain(metric, gain.mean)}"
    if gain.ci95 is None:
        return f"{text}, without an interval: there are too few test rows."
    low, high = (format_gain(metric, end).split(" ")[0] for end in bounded_gain(metric, gain.ci95))
    return f"{text} (95 % interval {low} to {high}): {MEAN[gain.verdict]}."


def _who(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MAX_NAMED_SILOS else str(len(names))
