"""
Plans the privacy guarantee of one silo from ``[privacy]``: units and delta, what else is released, the number of steps,
and the noise that keeps all of it within ``epsilon``. Nothing is trained or charged here.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fedtl.data import origins
from fedtl.data.dataset import SiloDataset
from fedtl.data.source import Array
from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.experiment.released_layers import released_layers
from fedtl.methods.base import Method
from fedtl.privacy import accounting
from fedtl.privacy.budget import Budget
from fedtl.privacy.dp_accuracy import AccuracyRelease
from fedtl.privacy.dp_adabn import StatisticsRelease, adaptable_layers
from fedtl.privacy.dp_summary import SummaryRelease
from fedtl.privacy.guarantee import (
    PrivacyGuarantee,
    PrivateTraining,
    ProtectedUnits,
    Releases,
    divide_steps,
    steps_of_epochs,
)
from fedtl.privacy.ledger import LedgerAccount
from fedtl.privacy.rows import Part, RowSet, row_set
from fedtl.training.trainer import Trainer

STATISTICS_SHARE = 0.15  # of the privacy budget (as mu^2), for released statistics
SUMMARY_SHARE = 0.15  # for summaries, where the method also trains
ACCURACY_SHARE = 0.02  # and for the released accuracies of all rounds together


@dataclass(frozen=True)
class LedgerLocation:
    """The ledger's file, the name of the dataset in it, and the key of the hashes of its rows."""

    book: Path
    dataset: str
    key: bytes


def plan_guarantee(
    settings: PrivacySettings,
    trainer: Trainer,
    data: SiloDataset,
    rounds: int,
    seed: int,
    ledger: LedgerLocation,
) -> PrivacyGuarantee:
    """
    Return the guarantee of a silo with these rows. Training and releases of all ``rounds`` together stay within
    ``settings.epsilon``. ``seed``: for reproducible noise. Raises ConfigError, also where nothing would leave the silo.
    """
    if trainer.partition.shared and not any(map(trainer.partition.leaves, trainer.partition.roles)):
        raise ConfigError(
            "[privacy]: the model has no tensor that the method shares, so nothing would leave a silo; "
            "use a method that shares heads, or another model"
        )
    origins.check_origins(data.origins, ledger.dataset)
    units = _protected_units(settings, data, ledger.dataset)
    delta = _delta(settings, units)
    releases = Releases(
        _statistics_release(settings, trainer, data, units, delta),
        _accuracy_release(settings, data, rounds, delta, ledger.dataset),
    )
    steps = _steps(settings, trainer, units)
    if trainer.method.summaries:
        noise = _summary_noise(settings, trainer.method, releases, rounds, delta, any(steps))
        releases = replace(releases, summaries=_summary_releases(trainer.method, noise, units))
    training = _private_training(settings, trainer, units, steps, rounds, delta, releases)
    schedule = (*releases.in_all(rounds), *((training.event(training.all_steps),) if any(steps) else ()))
    return PrivacyGuarantee(
        LedgerAccount(
            ledger.book, ledger.dataset, row_hashes(data, ledger.key), Budget(settings.epsilon, delta)
        ),
        units,
        training,
        releases,
        epsilon=accounting.epsilon(schedule, delta),
        delta=delta,
        seed=seed if settings.noise == "reproducible" else None,
    )


def row_hashes(data: SiloDataset, key: bytes) -> RowSet:
    """Return keyed hashes of training and validation rows. Without the key a reader cannot test which rows they are."""
    parts = [
        Part(_array(rows.x), rows.y.numpy(), None if rows.units is None else rows.units.numpy())
        for rows in (data.train, data.val)
    ]
    return row_set(parts, key)


def _array(x: Tensor) -> Array:
    """Return the inputs as an array; streamed images as they are: they are read a few at a time."""
    return x.numpy() if isinstance(x, Tensor) else x


def _protected_units(settings: PrivacySettings, data: SiloDataset, name: str) -> ProtectedUnits:
    if settings.unit == "record":
        return ProtectedUnits(len(data.train))
    if data.train.units is None:
        raise ConfigError(
            f'{name}: privacy.unit = {settings.unit!r}, but the rows have no units; set privacy.unit to "record" or to a column'
        )
    return ProtectedUnits(data.train.unit_count, settings.unit)


def _delta(settings: PrivacySettings, units: ProtectedUnits) -> float:
    delta = accounting.default_delta(units.count) if settings.delta == "auto" else settings.delta
    if delta > 1 / units.count:
        raise ConfigError(
            f"privacy.delta = {delta:g} is above 1/n = {1 / units.count:g}: with a delta this large the guarantee permits "
            f'publishing a whole {settings.unit}; lower delta, or set privacy.delta = "auto"'
        )
    return delta


def _statistics_release(
    settings: PrivacySettings, trainer: Trainer, data: SiloDataset, units: ProtectedUnits, delta: float
) -> StatisticsRelease | None:
    """Return the one release of normalisation statistics before the first round; None where no layer releases any."""
    body = trainer.net(data.width).body
    paths = released_layers(body, settings)
    if not paths:
        return None
    layers = adaptable_layers(body)
    channels = tuple(layers[path].running_mean.numel() for path in paths)
    noise = accounting.statistics_noise(settings.epsilon, delta, STATISTICS_SHARE)
    return StatisticsRelease(noise, tuple(paths), channels, units.count)


def _accuracy_release(
    settings: PrivacySettings, data: SiloDataset, rounds: int, delta: float, name: str
) -> AccuracyRelease | None:
    """Return the release of a noisy accuracy in every round; None where ``privacy.metrics`` does not ask for it."""
    if not settings.metrics:
        return None
    if not data.classes or not len(data.val):
        missing = "classes" if not data.classes else "validation rows"
        raise ConfigError(f"{name}: privacy.metrics = {settings.metrics}, but the silo has no {missing}")
    noise = accounting.statistics_noise(settings.epsilon, delta, ACCURACY_SHARE) * math.sqrt(rounds)
    return AccuracyRelease(noise, len(data.val) if settings.unit == "record" else data.val.unit_count)


def _summary_noise(
    settings: PrivacySettings, method: Method, releases: Releases, rounds: int, delta: float, trains: bool
) -> float:
    """
    Return the noise multiplier of each release of a summary. Where nothing is trained, all summaries together take what
    the other releases leave of the budget.
    """
    count = sum(rounds if summary.every_round else 1 for summary in method.summaries)
    if trains:
        return accounting.statistics_noise(settings.epsilon, delta, SUMMARY_SHARE) * math.sqrt(count)
    return accounting.calibrate(settings.epsilon, delta, 1.0, count, releases.in_all(rounds))


def _summary_releases(method: Method, noise: float, units: ProtectedUnits) -> tuple[SummaryRelease, ...]:
    return tuple(
        SummaryRelease(summary.name, noise, summary.bound, units.count, summary.every_round)
        for summary in method.summaries
    )


def _steps(settings: PrivacySettings, trainer: Trainer, units: ProtectedUnits) -> tuple[int, ...]:
    """Return the number of steps of each phase in one round."""
    training = trainer.training
    epochs = [training.epochs if phase.epochs is None else phase.epochs for phase in trainer.method.phases]
    if settings.steps:
        return divide_steps(settings.steps, epochs)
    return steps_of_epochs(units.count, training.batch_size, epochs)


def _private_training(
    settings: PrivacySettings,
    trainer: Trainer,
    units: ProtectedUnits,
    steps: tuple[int, ...],
    rounds: int,
    delta: float,
    releases: Releases,
) -> PrivateTraining:
    """
    Return the steps of a round and the least noise with which all rounds stay within the budget. Without steps, noise and
    rate are those of the summaries, which are then all that leaves.
    """
    if not any(steps):
        if not releases.summaries:
            raise ConfigError(
                "the method trains nothing in rounds and sends no summary, so [privacy] has nothing to protect; remove it, or use another method"
            )
        return PrivateTraining(settings.clip, releases.summaries[0].noise_multiplier, 1.0, steps, rounds)
    count = units.count
    rate = settings.sample_rate or min(trainer.training.batch_size, count) / count
    noise = accounting.calibrate(settings.epsilon, delta, rate, rounds * sum(steps), releases.in_all(rounds))
    return PrivateTraining(settings.clip, noise, rate, steps, rounds)
