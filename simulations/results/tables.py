"""What does the table of one comparison show?"""

from collections.abc import Iterator

from fedtl.report.figures import TITLES, format_difference, format_with_interval, silo_count_note
from fedtl.results.comparison import Comparison

MAX_SILOS = 12  # that a table names


def table(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of a table: a row for each silo, if there are few, and for all of them."""
    metric, methods = comparison.metric, list(comparison.methods)
    yield f"| {TITLES[metric]} | " + " | ".join(methods) + " |"
    yield "|---" * (len(methods) + 1) + "|"
    silos = sorted({silo for by_silo in comparison.methods.values() for silo in by_silo})
    for silo in silos if len(silos) <= MAX_SILOS else ():
        cells = [comparison.methods[name].get(silo, {}).get(metric) for name in methods]
        yield f"| {silo} | " + " | ".join(format_with_interval(metric, cell) for cell in cells) + " |"
    fewer = fewer_silos(comparison)
    means = [
        format_with_interval(metric, comparison.mean[name].get(metric)) + fewer[name] for name in methods
    ]
    yield f"| mean of {len(silos)} silos | " + " | ".join(means) + " |"
    for title, line in ROWS.items():
        found = [
            line(metric, comparison.overall[name]) if name in comparison.overall else "" for name in methods
        ]
        yield f"| {title} | " + " | ".join(found) + " |"
    yield from without_labels(comparison)


def fewer_silos(comparison: Comparison) -> dict[str, str]:
    """
    Return by method the note behind a figure over silos: " (5 of 6)" where the method has a value at five of six, as training alone
    has none at a silo without labels; otherwise "".
    """
    silos = {silo for by_silo in comparison.methods.values() for silo in by_silo}
    means = {name: by_metric.get(comparison.metric) for name, by_metric in comparison.mean.items()}
    return {
        name: silo_count_note(one.silos if (one := means.get(name)) else None, len(silos))
        for name in comparison.methods
    }


def without_labels(comparison: Comparison) -> Iterator[str]:
    """Yield for each silo without labels what the methods gain over silobn there, and which ones it takes in how many runs."""
    metric = comparison.metric
    for silo, choice in comparison.label_free.items():
        gains = {name: by_silo.get(silo) for name, by_silo in comparison.over_source.items()}
        found = [
            format_difference(metric, gain.mean, gain.ci95) if (gain := gains.get(name)) else ""
            for name in comparison.methods
        ]
        yield f"| {silo}, gain over silobn | " + " | ".join(found) + " |"
        taken = choice.chosen or {choice.best: len(comparison.seeds)}
        cells = [
            f"{taken[name]} of {sum(taken.values())} runs" if name in taken else ""
            for name in comparison.methods
        ]
        yield f"| {silo}, taken without labels | " + " | ".join(cells) + " |"
        gain = format_difference(metric, choice.gain.mean, choice.gain.ci95)
        yield f"| {silo}, gain of what is taken over silobn | {gain} |" + " |" * (len(comparison.methods) - 1)


# What is said of a method over all silos, against training alone.
ROWS = {
    "mean gain over local": lambda metric, one: format_difference(metric, one.mean.mean, one.mean.ci95),
    "silos not below local": lambda metric, one: f"{one.not_worse} of {one.silos}",
    "silos not shown to be below local": lambda metric, one: f"{one.loss_not_shown} of {one.silos}",
    "worst silo": lambda metric, one: (
        f"{one.worst} {format_difference(metric, one.worst_gain.mean, one.worst_gain.ci95)}"
    ),
}
