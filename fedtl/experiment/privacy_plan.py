"""From ``[privacy]`` to a silo's promise: how many steps, how much noise, and what it comes to."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from torch import nn

from fedtl.data import origins
from fedtl.data.dataset import SiloDataset
from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.messages import SpendEvent
from fedtl.methods.base import Use, finished_roles, trained_roles
from fedtl.models.net import stages
from fedtl.models.scaled import INPUT_SCALE
from fedtl.privacy import accounting
from fedtl.privacy import taint as labels
from fedtl.privacy.budget import Budget
from fedtl.privacy.dp_accuracy import AccuracyRelease
from fedtl.privacy.dp_adabn import StatisticsRelease, adaptable_layers
from fedtl.privacy.guarantee import (
    PrivacyGuarantee,
    PrivateTraining,
    ProtectedUnits,
    Releases,
    divide_steps,
    steps_of_epochs,
)
from fedtl.privacy.ledger import LedgerAccount
from fedtl.privacy.ledger_reading import read_ledger
from fedtl.privacy.rows import Part, RowSet, row_set
from fedtl.privacy.taint import Label
from fedtl.privacy.verify import study_costs
from fedtl.results.privacy import PrivacyReport, SiloPrivacy
from fedtl.training.extra import changed_extra
from fedtl.training.trainer import Trainer

SHARE = 0.15  # of the budget that the statistics take
METRIC_SHARE = 0.02  # and that the accuracies of all rounds take together
VAGUE = 0.1  # of an accuracy
NOISY = 0.5  # standard deviations: noisier statistics are a guess


@dataclass(frozen=True)
class LedgerLocation:
    """Where a promise is kept: the ledger's file, the name of the data, and the key that marks its rows."""

    book: Path
    dataset: str
    key: bytes


def guarantee(
    settings: PrivacySettings,
    trainer: Trainer,
    data: SiloDataset,
    rounds: int,
    seed: int,
    place: LedgerLocation,
) -> PrivacyGuarantee:
    """
    The promise of a silo with this many training rows. Everything that is charged, the statistics included, ends at
    ``settings.epsilon``. Raises ConfigError.
    """
    origins.check_origins(data.origins, place.dataset)
    own = settings.unit == "record"
    if not own and data.train.units is None:
        raise ConfigError(f"{place.dataset}: privacy.unit = {settings.unit!r}, and no row says whose it is")
    records, training = len(data.train) if own else data.train.unit_count, trainer.training
    delta = accounting.default_delta(records) if settings.delta == "auto" else settings.delta
    if delta > 1 / records:
        raise ConfigError(
            f"privacy.delta = {delta:g} is above 1/n = {1 / records:g}: it would allow to publish a {settings.unit}"
        )
    body = trainer.net(data.width).body
    chosen = released_layers(body, settings)
    refresh = None
    if chosen:
        found = adaptable_layers(body)
        channels = tuple(found[path].running_mean.numel() for path in chosen)
        noise = accounting.statistics_noise(settings.epsilon, delta, SHARE)
        refresh = StatisticsRelease(noise, tuple(chosen), channels, records)
    metric = None
    if settings.metrics:
        if not data.classes or not len(data.val):
            what = "classes" if not data.classes else "validation rows"
            raise ConfigError(
                f"{place.dataset}: privacy.metrics = {settings.metrics}, and it has no {what} to measure it on"
            )
        noise = accounting.statistics_noise(settings.epsilon, delta, METRIC_SHARE) * math.sqrt(rounds)
        metric = AccuracyRelease(noise, len(data.val) if own else data.val.unit_count)
    rate = settings.sample_rate or min(training.batch_size, records) / records
    epochs = [training.epochs if phase.epochs is None else phase.epochs for phase in trainer.method.phases]
    planned = (
        divide_steps(settings.steps, epochs)
        if settings.steps
        else steps_of_epochs(records, training.batch_size, epochs)
    )
    fixed: tuple[SpendEvent, ...] = (refresh.event,) if refresh else ()
    fixed += (SpendEvent(metric.noise_multiplier, 1.0, rounds),) if metric else ()
    multiplier = _calibrated(settings.epsilon, delta, rate, rounds * sum(planned), fixed)
    schedule = (*fixed, SpendEvent(multiplier, rate, rounds * sum(planned)))
    return PrivacyGuarantee(
        LedgerAccount(
            place.book, place.dataset, row_hashes(data, place.key), Budget(settings.epsilon, delta)
        ),
        ProtectedUnits(records, settings.unit),
        PrivateTraining(settings.clip, multiplier, rate, planned, rounds),
        Releases(refresh, metric),
        epsilon=_spent(schedule, delta),
        delta=delta,
        seed=seed if settings.noise == "reproducible" else None,
    )


def released_layers(body: nn.Module, settings: PrivacySettings) -> list[str]:
    """The norms whose statistics DP-AdaBN releases: the one that scales the inputs, and those of the body if asked for."""
    inputs = [path for path in adaptable_layers(body) if path == INPUT_SCALE]
    return inputs + (chosen_layers(body, settings.stages) if settings.statistics == "dp" else [])


def chosen_layers(body: nn.Module, wanted: Iterable[int]) -> list[str]:
    """The norms of these stages of the body, counted from 1; of all of them where none are named."""
    numbers, found = list(wanted), [path for path in adaptable_layers(body) if path != INPUT_SCALE]
    if not numbers:
        return found
    parts = stages(body)
    if max(numbers) > len(parts):
        raise ConfigError(f"privacy.stages names {max(numbers)}, but the body has {len(parts)} stages")
    names = [name for number in numbers for name in parts[number - 1]]
    return [path for path in found if any(name.startswith(f"{_above(path)}.") for name in names)]


def warnings(its: PrivacyGuarantee) -> list[str]:
    """What the steward should know beforehand about the accuracy and the statistics that will be released."""
    found: list[str] = []
    name, protected, releases = its.account.dataset, its.protected, its.releases
    if releases.accuracy is not None and releases.accuracy.mean_noise_std > VAGUE:
        found.append(
            f"{name}: {releases.accuracy.units} validation {protected.unit}s are few for an accuracy that leaves each round: its "
            f"noise is {releases.accuracy.mean_noise_std:.2f}; leave privacy.metrics out, or plan fewer rounds"
        )
    if releases.statistics is not None and releases.statistics.mean_noise_std > NOISY:
        release = releases.statistics
        found.append(
            f"{name}: {protected.count} {protected.unit}s are few for the statistics of {sum(release.channels)} channels: the noise "
            f"on each is {release.mean_noise_std:.2f} standard deviations; name fewer privacy.stages, use privacy.statistics = "
            '"public", or a backbone with GroupNorm or LayerNorm, which has no statistics to release'
        )
    return found


def adjacency(unit: str) -> str:
    """What ``epsilon`` compares: two neighbouring sets of a silo's units."""
    return f"zero-out of one {unit}, their number is public"


def privacy_report(settings: PrivacySettings) -> PrivacyReport:
    """Return what is guaranteed, without silos' numbers. With noise that can be drawn again nothing is private."""
    return PrivacyReport(
        private=settings.noise == "os",
        unit=settings.unit,
        adjacency=adjacency(settings.unit),
        statistics=settings.statistics,
        tuning=settings.tuning,
        metrics=tuple(settings.metrics),
    )


def terms(its: PrivacyGuarantee) -> SiloPrivacy:
    """Return a guarantee as it is published, for those who have to agree to it or to check it."""
    training, statistics, accuracy = its.training, its.releases.statistics, its.releases.accuracy
    return SiloPrivacy(
        epsilon=its.epsilon,
        delta=its.delta,
        epsilon_replace_one=_spent(its.schedule(), its.delta, replace_one=True),
        unit=its.protected.unit,
        adjacency=adjacency(its.protected.unit),
        units=its.protected.count,
        clip=training.clip,
        noise_multiplier=training.noise_multiplier,
        sample_rate=training.sample_rate,
        steps_a_round=training.steps_a_round,
        rounds=training.rounds,
        metric_noise=None if accuracy is None else accuracy.noise_multiplier,
        metric_expected_noise=None if accuracy is None else accuracy.mean_noise_std,
        statistics_noise=None if statistics is None else statistics.noise_multiplier,
        statistics_expected_noise=None if statistics is None else statistics.mean_noise_std,
    )


def spent(its: PrivacyGuarantee, study: str) -> SiloPrivacy:
    """
    Return the guarantee with the epsilon that a study took from the ledger: its plan's whole epsilon from its first round
    on, also where it ended early; 0 where no round was charged.
    """
    studies = study_costs(read_ledger(its.account.path, its.account.dataset))
    if study not in studies:
        return replace(terms(its), epsilon=0.0, epsilon_replace_one=0.0, epsilon_charged=0.0)
    return replace(terms(its), epsilon=studies[study].epsilon, epsilon_charged=studies[study].charged)


def row_hashes(data: SiloDataset, key: bytes) -> RowSet:
    """Of the rows that a private round reads, under a key: whoever lacks it cannot try out which rows they are."""
    parts = [
        Part(its.x.numpy(), its.y.numpy(), None if its.units is None else its.units.numpy())
        for its in (data.train, data.val)
    ]
    return row_set(parts, key)


@lru_cache(256)
def _calibrated(
    epsilon: float, delta: float, rate: float, count: int, fixed: tuple[SpendEvent, ...]
) -> float:
    return accounting.calibrate(epsilon, delta, rate, count, fixed)


@lru_cache(256)
def _spent(events: tuple[SpendEvent, ...], delta: float, replace_one: bool = False) -> float:
    return accounting.epsilon(events, delta, replace_one)


def _above(path: str) -> str:
    return path.rpartition(".")[0]


def trained(
    trainer: Trainer, first: Mapping[str, Label], settings: PrivacySettings | None
) -> dict[str, Label]:
    """
    After a silo's last round, by the tensors' names. ``first``: of the first weights. ``settings``: of that
    silo, None: not private. With noise that can be drawn again it is as if there were none.
    """
    extra = changed_extra(trainer.method, trainer.partition)
    if settings is None:
        moved = [*trainer.loop.movable(trained_roles(trainer.method)), *extra]
        return labels.after(first, moved, private=False)
    moved = [*trainer.loop.movable(trained_roles(trainer.method) - labels.STILL), *extra]
    fresh = refreshed(trainer, settings)
    if settings.noise == "reproducible":
        return labels.after(first, [*moved, *fresh], private=False)
    sent = [name for name in moved if trainer.partition.leaves(name)]
    return labels.after(first, moved, private=True, released=[*sent, *fresh])


def settled(trainer: Trainer, before: Mapping[str, Label]) -> dict[str, Label]:
    """Of the model that the silo itself uses in the end: what is fitted at home has no noise."""
    if any(isinstance(step, Use) for step in trainer.method.finish):  # it may mix all sets of tensors
        worst = labels.together({"all": label} for label in before.values())["all"]
        before = dict.fromkeys(before, worst)
    return labels.after(before, trainer.loop.movable(finished_roles(trainer.method)), private=False)


def refreshed(trainer: Trainer, settings: PrivacySettings) -> list[str]:
    """The statistics that DP-AdaBN releases."""
    body = trainer.net(1).body
    return [
        f"body.{path}.{name}"
        for path in released_layers(body, settings)
        for name, _ in adaptable_layers(body)[path].named_buffers()
    ]
