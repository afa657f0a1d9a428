"""What each method scores on each silo's test rows, over seeds, with bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedtl.experiment.bootstrap import Answers, Floats, Resampling, gain, interval
from fedtl.experiment.run_folder import RunFolder
from fedtl.results.comparison import Estimate, Gain
from fedtl.results.run import RunResult

Results = Mapping[str, Sequence[RunResult]]  # by method, one run a seed


@dataclass(frozen=True)
class Scores:
    """The estimates by method, silo and metric, and the bootstrap replicates [R] that they come from."""

    estimates: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    replicates: Mapping[str, Mapping[str, Mapping[str, Floats]]]
    silos: Sequence[str]


def read_scores(
    folders: Mapping[str, Sequence[RunFolder]], results: Results, metrics: Sequence[str]
) -> Scores:
    """Read every run's scores on test rows. A metric that a run could not measure at a silo is left out there."""
    silos = sorted({silo for runs in results.values() for run in runs for silo in run.silos})
    estimates: dict[str, dict[str, dict[str, Estimate]]] = {label: {} for label in folders}
    replicates: dict[str, dict[str, dict[str, Floats]]] = {label: {} for label in folders}
    for silo in silos:
        present = [label for label in folders if silo in results[label][0].silos]
        answers = {label: [_read_answers(run, silo) for run in folders[label]] for label in present}
        resampling = Resampling.draw(answers[present[0]], silo)
        for label in present:
            values = _values(results[label], silo, metrics)
            drawn = {metric: resampling.replicates(metric, answers[label]) for metric in values}
            replicates[label][silo] = drawn
            estimates[label][silo] = {
                metric: Estimate(float(np.mean(seeds)), interval(drawn[metric]), tuple(seeds))
                for metric, seeds in values.items()
            }
    return Scores(estimates, replicates, silos)


def gain_over_local(scores: Scores, label: str, local: str, silo: str, metric: str) -> Gain | None:
    """Return the gain over the method ``local``, on the same bootstrap draws; None where one was not measured."""
    if any(metric not in scores.estimates.get(name, {}).get(silo, {}) for name in (label, local)):
        return None
    mine, other = (np.array(scores.estimates[name][silo][metric].mean) for name in (label, local))
    paired = (scores.replicates[name][silo][metric] for name in (label, local))
    return Gain(float(gain(metric, mine, other)), interval(gain(metric, *paired)))


def mean_over_silos(scores: Scores, label: str) -> dict[str, Estimate]:
    """Return a method's plain mean over the silos that have a metric, by metric."""
    by_silo, means = scores.estimates[label], dict[str, Estimate]()
    for metric in sorted({name for own in by_silo.values() for name in own}):
        measured = [silo for silo in by_silo if metric in by_silo[silo]]
        seeds = np.mean([by_silo[silo][metric].seeds for silo in measured], axis=0)
        drawn = np.nanmean(np.stack([scores.replicates[label][silo][metric] for silo in measured]), axis=0)
        means[metric] = Estimate(float(seeds.mean()), interval(drawn), tuple(seeds.tolist()), len(measured))
    return means


def _values(runs: Sequence[RunResult], silo: str, metrics: Sequence[str]) -> dict[str, list[float]]:
    """Return the value of each seed, by metric; only metrics that every run has."""
    figures = [run.silos[silo].measured.figures for run in runs]
    return {
        metric: [own[metric] for own in figures]
        for metric in metrics
        if all(metric in own for own in figures)
    }


def _read_answers(folder: RunFolder, silo: str) -> Answers:
    tensors = folder.tensors(f"silos/{silo}/test.safetensors")
    return Answers(tensors["scores"].double().numpy(), tensors["y"].numpy(), tensors["ids"].numpy())
