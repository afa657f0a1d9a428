"""A card for each silo: its rows, what it reaches alone and together, the verdict, what leaves it, and its privacy."""

from collections.abc import Mapping

from fedtl.report.bounds import LOCAL
from fedtl.report.figures import TITLES, all_silos, format_difference, format_value, format_with_interval
from fedtl.report.html import Card
from fedtl.results.comparison import Comparison
from fedtl.results.page_facts import ComparisonFacts, RunFacts
from fedtl.results.run import RunResult, SiloResult

MAX_CARDS = 24  # with more silos, the tables are easier to read
ROWS = "rows"


def comparison_cards(comparison: Comparison, facts: ComparisonFacts) -> list[Card]:
    """Return a card for each silo of a comparison; none where there are too many."""
    silos = all_silos(comparison)
    return [_compared(comparison, facts, name) for name in silos] if len(silos) <= MAX_CARDS else []


def _compared(comparison: Comparison, facts: ComparisonFacts, name: str) -> Card:
    metric, benefit, methods = comparison.metric, comparison.benefit.get(name), comparison.methods
    lines = []
    if counts := facts.rows.get(name):
        lines.append((ROWS, _rows(counts.train, counts.val, counts.test)))
    if LOCAL in methods:
        lines.append(("alone", format_with_interval(metric, methods[LOCAL].get(name, {}).get(metric))))
    if benefit is None:
        return Card(name, "not compared", "", lines)
    lines += [
        (benefit.best, format_with_interval(metric, methods[benefit.best].get(name, {}).get(metric))),
        ("gain", format_difference(metric, benefit.over_local, benefit.ci95)),
        *_sent(facts.sent.get(benefit.best, {})),
        ("privacy", _guarantee(comparison.privacy.epsilon if comparison.privacy else None)),
    ]
    return Card(name, str(benefit.verdict), benefit.verdict.replace(" ", "-"), lines)


def run_cards(result: RunResult, facts: RunFacts) -> list[Card]:
    """Return a card for each silo of a run; none where there are too many."""
    return (
        [_trained(result, facts, *item) for item in result.silos.items()]
        if len(result.silos) <= MAX_CARDS
        else []
    )


def _trained(result: RunResult, facts: RunFacts, name: str, silo: SiloResult) -> Card:
    metric = result.metric
    lines = [(ROWS, _rows(silo.train, silo.val, silo.test))]
    if silo.received is not None:
        lines.append(("as received", format_value(metric, silo.received.figures.get(metric))))
    if silo.mix is not None:
        lines.append(
            (
                "its model",
                " + ".join(f"{100 * share:.0f} % {part}" for part, share in silo.mix.weights.items()),
            )
        )
    lines += _sent(facts.sent)
    if silo.statistics_distance is not None:
        lines.append(
            (
                "statistics off by",
                f"{silo.statistics_distance:.2f} standard deviations",
            )
        )
    own = (result.privacy.silos or {}).get(name) if result.privacy else None
    lines.append(("privacy", _guarantee(own.epsilon if own else None)))
    if reasons := result.left_out.get(name):
        lines.append(("left out", f"{len(reasons)} of {result.rounds} rounds"))
    value = format_value(metric, silo.measured.figures.get(metric))
    return Card(name, f"{TITLES[metric]} {value}", "", lines)


def _rows(train: int, val: int, test: int) -> str:
    return f"{train} train, {val} val, {test} test"


def _sent(sent: Mapping[str, int]) -> list[tuple[str, str]]:
    return [("leaves in a round", f"{sum(sent.values()):,} bytes ({', '.join(sent)})")] if sent else []


def _guarantee(epsilon: float | None) -> str:
    return "none" if epsilon is None else f"epsilon {epsilon:.3g}"
