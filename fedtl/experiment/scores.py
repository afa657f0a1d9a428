"""What each method scores on each silo's test rows: over seeds, against training alone, and as the silo would choose."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.uncertainty import Measurement, mean_of, measure
from fedtl.results.comparison import Estimate, Interval
from fedtl.results.run import RunResult
from fedtl.tasks.base import LearningTask
from fedtl.tasks.metrics import METRICS, figure
from fedtl.tasks.row_metrics import NO_ROWS, Answers, pooled

Results = Mapping[
    str, Sequence[RunResult]
]  # by method: one run for each seed and fold, the folds of a seed together
SOURCE_ONLY = "silobn"  # the shared model with a silo's own statistics (AdaBN): trained on the labels of other silos alone
NO_TERMS = "{name}, no terms"  # the column of a method that has further terms, without them


@dataclass(frozen=True)
class Scores:
    """
    ``measured``: every metric. In the main metric, where above zero is better: ``over_local``, each method minus training
    alone, by method and silo, and ``chosen``, the methods that a silo takes minus training alone. ``over_source`` and
    ``chosen_label_free``: likewise at silos without labels, minus ``SOURCE_ONLY``. ``spread``: the standard deviation of
    the labels of a silo's test rows.
    """

    silos: Sequence[str]
    measured: dict[str, dict[str, dict[str, Measurement]]]
    over_local: dict[str, dict[str, Measurement]]
    chosen: dict[str, Measurement] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    over_source: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    chosen_label_free: dict[str, Measurement] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """
    How scores are read: the ``folds`` of a seed, the ``metrics`` and the ``main`` one, the methods ``compared`` with training alone,
    and the column of training alone (``local``). ``task``: what is predicted.
    """

    task: LearningTask
    folds: int
    metrics: Sequence[str]
    main: str
    compared: Sequence[str]
    local: str
    choose: Callable[[str], Sequence[str] | None]  # by silo: the method that it takes in each run
    unlabelled: Sequence[str] = ()  # silos where nothing can be trained alone


def read_scores(folders: Mapping[str, Sequence[RunFolder]], results: Results, how: Reading) -> Scores:
    """Read every run's scores on test rows. A metric that a run could not measure at a silo is left out there."""
    silos = sorted({silo for runs in results.values() for run in runs for silo in run.silos})
    scores = Scores(silos, {label: {} for label in folders}, {label: {} for label in how.compared})
    for silo in silos:
        present = [label for label in folders if silo in results[label][0].silos]
        runs = {label: [read_answers(run, silo, how.task) for run in folders[label]] for label in present}
        seeds = {label: by_seed(own, how.folds) for label, own in runs.items()}
        for label in present:
            names = _common_metrics(results[label], seeds[label], silo, how)
            scores.measured[label][silo] = {name: measure(name, seeds[label], silo) for name in names}
        _compare(scores, silo, runs, seeds, how)
    return scores


def source_only(labels: Container[str]) -> str:
    """Return the column of ``SOURCE_ONLY`` without further terms, which can train on other losses."""
    bare = NO_TERMS.format(name=SOURCE_ONLY)
    return bare if bare in labels else SOURCE_ONLY


def estimates(scores: Scores) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Return the metrics by method, silo and metric."""
    return {
        label: {
            silo: {metric: estimate(metric, value) for metric, value in own.items()}
            for silo, own in by_silo.items()
        }
        for label, by_silo in scores.measured.items()
    }


def mean_over_silos(scores: Scores, label: str) -> dict[str, Estimate]:
    """Return a method's plain mean over the silos that have a metric, by metric."""
    by_silo, means = scores.measured[label], dict[str, Estimate]()
    for metric in sorted({name for own in by_silo.values() for name in own}):
        values = [own[metric] for own in by_silo.values() if metric in own]
        means[metric] = estimate(metric, mean_of(values), len(values))
    return means


def estimate(metric: str, value: Measurement, silos: int | None = None) -> Estimate:
    """Return the mean over seeds with its interval, within the limits of the metric."""
    certainty = value.certainty()
    interval: Interval | None = certainty.interval()
    if interval:
        low, high = np.clip(interval, METRICS[metric].low, METRICS[metric].high)
        interval = float(low), float(high)
    return Estimate(certainty.mean, interval, tuple(value.seeds.tolist()), silos)


def _compare(
    scores: Scores,
    silo: str,
    runs: Mapping[str, Sequence[Answers]],
    seeds: Mapping[str, Sequence[Answers]],
    how: Reading,
) -> None:
    """Add the differences from training alone at one silo, or without labels from SOURCE_ONLY, where both were measured."""
    y = np.concatenate([own.y for own in next(iter(seeds.values()))])
    scores.spread[silo] = float(y.std()) if y.dtype.kind == "f" else 1.0
    values = {label: scores.measured[label][silo].get(how.main) for label in seeds}
    without = silo in how.unlabelled
    base = source_only(values) if without else how.local
    over, chosen = (
        (scores.over_source, scores.chosen_label_free) if without else (scores.over_local, scores.chosen)
    )
    local = values.get(base)
    if local is None:
        return
    for label, value in values.items():
        if label in how.compared and label != base and value is not None:
            same = _same_models(seeds[label], seeds[base])
            over.setdefault(label, {})[silo] = gain_in(how.main, value.minus(local), same)
    taken = how.choose(silo)
    if taken and all(values.get(label) is not None for label in taken):
        own = by_seed([runs[label][number] for number, label in enumerate(taken)], how.folds)
        difference = measure(how.main, own, silo).minus(local)
        chosen[silo] = gain_in(how.main, difference, _same_models(own, seeds[base]))


def gain_in(metric: str, difference: Measurement, same: bool) -> Measurement:
    """Return by how much the first is better than the second; surely zero where they are the ``same`` models."""
    if same:
        return difference.surely_zero()
    return difference.negative() if METRICS[metric].lower_is_better else difference


def _same_models(mine: Sequence[Answers], other: Sequence[Answers]) -> bool:
    return all(np.array_equal(a.scores, b.scores) for a, b in zip(mine, other, strict=True))


def by_seed(runs: Sequence[Answers], folds: int) -> list[Answers]:
    """Return the answers of each seed, of all its folds together."""
    return [pooled(runs[start : start + folds]) for start in range(0, len(runs), folds)]


def _common_metrics(
    runs: Sequence[RunResult], seeds: Sequence[Answers], silo: str, how: Reading
) -> list[str]:
    """Return the metrics that every seed has: one of its folds measured it, all scores are finite, and it is defined."""
    if not all(np.isfinite(own.scores).all() for own in seeds):
        return []
    figures = [run.silos[silo].measured.figures for run in runs]
    by_seed = [figures[start : start + how.folds] for start in range(0, len(figures), how.folds)]
    return [
        metric
        for metric in how.metrics
        if all(any(metric in own for own in folds) for folds in by_seed)
        and all(np.isfinite(figure(metric, own, np.ones((1, len(own.y))))).all() for own in seeds)
    ]


def read_answers(folder: RunFolder, silo: str, task: LearningTask) -> Answers:
    tensors = folder.tensors(f"silos/{silo}/test.safetensors")
    scores, y, ids = tensors["scores"].double().numpy(), tensors["y"].numpy(), tensors["ids"].numpy()
    units = tensors["units"].numpy() if "units" in tensors else NO_ROWS
    return Answers(scores, y, ids, units, task=task)
