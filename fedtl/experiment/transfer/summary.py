"""From every silo's trainings to curves over the number of stages, with intervals over silos, and to a recommended cut."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import groupby

import numpy as np
from scipy.special import stdtrit

import fedtl
from fedtl.errors import DataError
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.transfer.at_silo import is_pretrained
from fedtl.experiment.transfer.fragment import fragment
from fedtl.models.folder_files import shown_name
from fedtl.results.transferability import (
    Begin,
    Cut,
    Point,
    SiloTransfer,
    Spread,
    StageMeasures,
    StageSpread,
    Training,
    Transferability,
)
from fedtl.tasks.metrics import METRICS

CONFIDENCE = 0.975  # two-sided 95 %
Value = Callable[[SiloTransfer, Training], float | None]


def summarize(
    experiment: Experiment, results: Sequence[SiloTransfer], stages: Sequence[str], notes: Iterable[str]
) -> Transferability:
    """Return the summary. ``stages``: their names. Raises DataError where no silo has validation rows to choose by."""
    silos = tuple(dict.fromkeys(result.silo for result in results))
    kinds = [(one.begin, one.stages) for one in results[0].trainings]
    metric = experiment.metric
    best, chosen = choose_cut(results, len(stages))
    return Transferability(
        fedtl=fedtl.__version__,
        task=experiment.data.task,
        metric=metric,
        method=experiment.method.name,
        model=shown_name(experiment.model.name),
        pretrained=is_pretrained(experiment),
        rounds=experiment.rounds,
        seeds=tuple(experiment.compare.seeds),
        silos=silos,
        stages=tuple(stages),
        points=_points(results, kinds, metric),
        measures=tuple(_stage(results, number) for number in range(len(stages))),
        by_silo={
            name: _points([one for one in results if one.silo == name], kinds, metric) for name in silos
        },
        cut=Cut(chosen, best, fragment(experiment.method.name, chosen)),
        warnings=tuple(notes),
    )


def choose_cut(results: Sequence[SiloTransfer], stages: int) -> tuple[int, int]:
    """
    Return the number of stages with the lowest validation loss, and the recommended one: the smallest within one standard
    error of it, over silos (the one-standard-error rule of Breiman et al., 1984), so that no more leaves than helps.

    A number n is judged by AnB+, where the silo gets the first n stages of the others and fine-tunes everything; 0 by a
    training from scratch with the same new weights.
    """
    rows = []
    for _, group in groupby(sorted(results, key=lambda one: one.silo), key=lambda one: one.silo):
        own = [_losses(result, stages) for result in group]
        if all(value is not None for losses in own for value in losses):
            rows.append(np.mean(np.array(own, float), 0))
    if not rows:
        raise DataError(
            "no silo has validation rows with labels, so no cut can be chosen; set data.val higher"
        )
    losses = np.array(rows)
    best = int(losses.mean(0).argmin())
    worse = losses - losses[:, [best]]
    error = worse.std(0, ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else np.zeros(stages + 1)
    return best, int(np.flatnonzero(worse.mean(0) <= error).min())


def _losses(result: SiloTransfer, stages: int) -> list[float | None]:
    """Return the validation losses for 0, 1, ... stages."""
    by_kind = {(one.begin, one.stages): one.loss for one in result.trainings}
    return [by_kind[Begin.NEW, 0], *(by_kind[Begin.A_TUNED, count] for count in range(1, stages + 1))]


def _points(
    results: Sequence[SiloTransfer], kinds: Sequence[tuple[Begin, int]], metric: str
) -> tuple[Point, ...]:
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0

    def scratch(result: SiloTransfer) -> Training:
        return next(other for other in result.trainings if other.begin is Begin.NEW)

    def score(result: SiloTransfer, one: Training) -> float | None:
        return one.test.figures.get(metric)

    def gain(result: SiloTransfer, one: Training) -> float | None:
        here, there = one.test.figures.get(metric), scratch(result).test.figures.get(metric)
        return None if here is None or there is None else sign * (here - there)

    def loss(result: SiloTransfer, one: Training) -> float | None:
        there = scratch(result).loss
        return None if one.loss is None or there is None else one.loss - there

    return tuple(
        Point(*kind, *(spread(_values(results, kind, value)) for value in (score, gain, loss)))
        for kind in kinds
    )


def _values(
    results: Sequence[SiloTransfer], kind: tuple[Begin, int], value: Value
) -> Iterator[tuple[str, float | None]]:
    for result in results:
        training = next(one for one in result.trainings if (one.begin, one.stages) == kind)
        yield result.silo, value(result, training)


def _stage(results: Sequence[SiloTransfer], number: int) -> StageSpread:
    values: Mapping[str, Spread | None] = {
        field.name: spread((one.silo, getattr(one.measures[number], field.name)) for one in results)
        for field in fields(StageMeasures)
    }
    return StageSpread(**values)


def spread(values: Iterable[tuple[str, float | None]]) -> Spread | None:
    """
    Return the mean over silos of their means over seeds, and Student's t interval over silos; what differs between seeds is
    part of what differs between silos. Of one silo: over its seeds. None without values.
    """
    by_silo: dict[str, list[float]] = {}
    for silo, value in values:
        if value is not None:
            by_silo.setdefault(silo, []).append(value)
    if not by_silo:
        return None
    sample = [float(np.mean(own)) for own in by_silo.values()]
    if len(sample) == 1:
        (sample,) = by_silo.values()
    mean, count = float(np.mean(sample)), len(sample)
    if count < 2:
        return Spread(mean, None, len(by_silo))
    half = float(stdtrit(count - 1, CONFIDENCE)) * float(np.std(sample, ddof=1)) / count**0.5
    return Spread(mean, (mean - half, mean + half), len(by_silo))
