"""What a comparison shows in addition to its main table: missing metrics, refitted statistics, the second domain, late silos."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedtl.experiment.notes import AS_LEFT, LOCAL_AFTER, MAX_STATISTICS_DISTANCE
from fedtl.experiment.scores import Results
from fedtl.results.comparison import Average, Averages
from fedtl.results.metrics import Measured
from fedtl.results.run import RunResult, SiloResult, UsedFile

TARGET: Mapping[str, Callable[[SiloResult], Measured | None]] = {
    "target": lambda silo: silo.target,
    "target_adabn": lambda silo: silo.target_adabn,
}
CONSTANT = "constant"  # the label of the constant answers
MAX_NAMED = 6  # silos in one warning
DISTANT_OWN = (
    "the metrics are those with the exact normalisation statistics of each silo's training inputs, because the running averages of "
    f"training are more than {MAX_STATISTICS_DISTANCE} standard deviations from them"
)
DISTANT_SHARED = (
    f"the shared normalisation statistics are more than {MAX_STATISTICS_DISTANCE} standard deviations from the exact ones of each silo's "
    "training inputs; the table of both statistics shows what that costs the models of the last round"
)


def absent_reasons(results: Results, metrics: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Return by method, silo and metric why there is no value, where at least one run has none."""
    reasons: dict[str, dict[str, dict[str, str]]] = {}
    for label, runs in results.items():
        for silo in sorted(runs[0].silos):
            own = {metric: reason for metric in metrics if (reason := _absent_reason(runs, silo, metric))}
            if own:
                reasons.setdefault(label, {})[silo] = own
    return reasons


def statistics_warnings(results: Results) -> list[str]:
    """Return where the statistics that training left are far from exact ones, and which ones private runs use."""
    warnings = []
    for note in (AS_LEFT, LOCAL_AFTER):
        if labels := [label for label, runs in results.items() if note in runs[0].notes]:
            warnings.append(f"{', '.join(labels)}: {note}")
    distant = {label: count for label, runs in results.items() if (count := _distant_silos(runs))}
    shared = {label for label in distant if any(silo.refitted for silo in results[label][0].silos.values())}
    for text, methods in ((DISTANT_OWN, distant.keys() - shared), (DISTANT_SHARED, shared)):
        counts = [
            f"{label} at {count} of {len(results[label][0].silos)} silos"
            for label, count in distant.items()
            if label in methods
        ]
        if counts:
            warnings.append(f"{text}: {', '.join(counts)}")
    return warnings


def fingerprints(results: Results) -> dict[str, str]:
    """Return the fingerprint of each silo's rows, from the first run that has one."""
    first: dict[str, str] = {}
    for run in (run for runs in results.values() for run in runs):
        first = {**run.fingerprints, **first}
    return dict(sorted(first.items()))


def changed_rows(results: Results) -> list[str]:
    """Return a warning where two runs were trained on different rows of a silo: files changed while the comparison went on."""
    known = fingerprints(results)
    runs = [run for runs in results.values() for run in runs]
    changed = [
        silo for silo, own in known.items() if any(run.fingerprints.get(silo, own) != own for run in runs)
    ]
    named = ", ".join(changed[:MAX_NAMED]) + (", ..." if len(changed) > MAX_NAMED else "")
    return (
        [f"the rows of {named} changed between runs: repeat the comparison in a new folder"]
        if changed
        else []
    )


def files(results: Results) -> tuple[UsedFile, ...]:
    """Return what the runs began from other than the rows, from the first run that says it."""
    return next((run.files for runs in results.values() for run in runs if run.files), ())


def changed_files(results: Results) -> list[str]:
    """Return a warning where two runs began from different files of one setting: it changed while the comparison went on."""
    seen: dict[str, set[str]] = {}
    for file in (file for runs in results.values() for run in runs for file in run.files):
        seen.setdefault(file.setting, set()).add(file.sha256)
    return [
        f"the file of {setting} changed between runs: repeat the comparison in a new folder"
        for setting, hashes in sorted(seen.items())
        if len(hashes) > 1
    ]


def changes(results: Results) -> list[str]:
    """Return a warning on rows and on each file that changed between runs."""
    return [*changed_rows(results), *changed_files(results)]


def received_averages(results: Results) -> dict[str, dict[str, Averages]]:
    """Return the metrics of the models as the last round left them, for methods that are fitted at home after it."""
    return {
        label: averages
        for label, runs in results.items()
        if (averages := _by_silo(runs, lambda silo: silo.received))
    }


def refitted_averages(results: Results) -> dict[str, dict[str, Averages]]:
    """Return the metrics of these models with each silo's exact statistics, for methods that share statistics."""
    return {
        label: averages
        for label, runs in results.items()
        if (averages := _by_silo(runs, lambda silo: silo.refitted))
    }


def target_averages(results: Results) -> dict[str, dict[str, dict[str, Averages]]]:
    """Return the metrics on the second domain, by method, silo and way."""
    tables: dict[str, dict[str, dict[str, Averages]]] = {}
    for label, runs in results.items():
        ways = {way: _by_silo(runs, select) for way, select in TARGET.items()}
        for silo in runs[0].silos:
            if own := {way: averages[silo] for way, averages in ways.items() if silo in averages}:
                tables.setdefault(label, {})[silo] = own
    return tables


def late_averages(results: Results) -> dict[str, dict[str, dict[str, Averages]]]:
    """Return the metrics of silos that joined after training, by method, silo and way."""
    return {
        label: {
            silo: {way: _average([run.late[silo][way] for run in runs]) for way in ways}
            for silo, ways in runs[0].late.items()
        }
        for label, runs in results.items()
        if runs[0].late
    }


def _absent_reason(runs: Sequence[RunResult], silo: str, metric: str) -> str | None:
    """Return the reason that the first run without the metric gives, with its seed where other runs have the metric."""
    lacking = [run for run in runs if metric not in run.silos[silo].measured.figures]
    if not lacking:
        return None
    reason = lacking[0].silos[silo].measured.absent.get(metric, "it was not measured")
    return reason if len(lacking) == len(runs) else f"{reason} (seed {lacking[0].seed})"


def _distant_silos(runs: Sequence[RunResult]) -> int:
    """Return at how many silos the distance of the statistics, averaged over seeds, is too large."""
    distances = [[run.silos[silo].statistics_distance or 0.0 for run in runs] for silo in runs[0].silos]
    return sum(float(np.mean(seeds)) > MAX_STATISTICS_DISTANCE for seeds in distances)


def _by_silo(
    runs: Sequence[RunResult], select: Callable[[SiloResult], Measured | None]
) -> dict[str, Averages]:
    """Return averages over runs, by silo; only of silos that every run measured."""
    averages = {}
    for silo in runs[0].silos:
        measured = [metrics for run in runs if (metrics := select(run.silos[silo])) is not None]
        if len(measured) == len(runs):
            averages[silo] = _average(measured)
    return averages


def _average(measured: Sequence[Measured]) -> Averages:
    names = [name for name in measured[0].figures if all(name in run.figures for run in measured)]
    values = {name: [run.figures[name] for run in measured] for name in names}
    means = {name: Average(float(np.mean(seeds)), tuple(seeds)) for name, seeds in values.items()}
    return Averages(means, {name: reason for run in measured for name, reason in run.absent.items()})
