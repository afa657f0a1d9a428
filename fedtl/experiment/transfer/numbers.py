"""
What a site tells of what transfers: one silo's result as plain numbers by name, each within limits, and back.

The names begin with "transferability/"; ``policy.metrics`` of a site allows all of them by this word, or none.
"""

from collections.abc import Mapping
from math import isfinite

from fedtl.errors import ConfigError
from fedtl.experiment.study import Study
from fedtl.experiment.transfer.at_silo import is_pretrained
from fedtl.federation.policy import TRANSFER, Limits
from fedtl.messages import MAX_METRICS
from fedtl.models.net import stages
from fedtl.results.metrics import Measured
from fedtl.results.transferability import Begin, SiloTransfer, StageMeasures, Training
from fedtl.tasks.metrics import METRICS
from fedtl.training.transplant import plan

MAX_NUMBERS = MAX_METRICS - 10  # the others are for ordinary metrics
DIGITS = 3  # after the point, of every number
LOSS: Limits = (0.0, 20.0)
STAGE: Mapping[str, Limits] = {
    "cka": (0.0, 1.0),
    "cka_new": (0.0, 1.0),
    "logme": (-20.0, 20.0),
    "h_score": (0.0, 1000.0),
}


def transfer_limits(count: int, pretrained: bool, metric: str) -> dict[str, Limits]:
    """
    Return the limits of each number, by name, for a body with ``count`` stages. ``metric``: the main one; without limits of its
    own it does not leave, and one without a lower limit (R²) is not below -1.
    """
    low, high = METRICS[metric].low, METRICS[metric].high
    limits = dict[str, Limits]()
    for which in plan(count, pretrained):
        limits[_training(*which, "loss")] = LOSS
        if isfinite(high):
            limits[_training(*which, "score")] = (max(low, -1.0), high)
    for number in range(1, count + 1):
        limits |= {_stage(number, name): ends for name, ends in STAGE.items()}
    return limits


def check_number(study: Study) -> None:
    """Raise ConfigError where the model has no stages, or more than one message can tell of."""
    experiment, count = study.experiment, len(stages(study.trainer.spec.body))
    numbers = len(transfer_limits(count, is_pretrained(experiment), experiment.metric))
    if not 0 < numbers <= MAX_NUMBERS or not count:
        raise ConfigError(
            f"request.transferability: the body of {experiment.model.name!r} has {count} stages, about which a site would send {numbers} "
            f"numbers; from 1 stage on, and up to {MAX_NUMBERS} numbers, can be asked for. Use fedtl transferability on simulated silos"
        )


def to_numbers(result: SiloTransfer, metric: str, limits: Mapping[str, Limits]) -> dict[str, float]:
    """
    Return the numbers of one silo that ``limits`` names and that are defined: rounded, and a value beyond a limit as the limit. Their
    scores are in ``metric``.
    """
    values = dict[str, float | None]()
    for one in result.trainings:
        values[_training(one.begin, one.stages, "loss")] = one.loss
        values[_training(one.begin, one.stages, "score")] = one.test.figures.get(metric)
    for number, stage in enumerate(result.measures, 1):
        values |= {_stage(number, name): getattr(stage, name) for name in STAGE}
    return {
        name: min(max(round(value, DIGITS), limits[name][0]), limits[name][1])
        for name, value in values.items()
        if name in limits and value is not None and isfinite(value)
    }


def from_numbers(
    silo: str, seed: int, numbers: Mapping[str, float], metric: str, count: int, pretrained: bool
) -> SiloTransfer:
    """
    Return the result of a silo that sent these ``numbers``. Names that are not expected, and values beyond their limits, are left out: a
    site may send anything.
    """
    limits = transfer_limits(count, pretrained, metric)
    kept = {
        name: value
        for name, value in numbers.items()
        if name in limits and limits[name][0] <= value <= limits[name][1]
    }
    trainings = []
    for which in plan(count, pretrained):
        score = kept.get(_training(*which, "score"))
        figures = {} if score is None else {metric: score}
        trainings.append(Training(*which, kept.get(_training(*which, "loss")), Measured(figures)))
    measures = [
        StageMeasures(**{name: kept.get(_stage(number, name)) for name in STAGE})
        for number in range(1, count + 1)
    ]
    return SiloTransfer(silo, seed, tuple(trainings), tuple(measures))


def _training(begin: Begin, stages: int, what: str) -> str:
    return f"{TRANSFER}/{begin}/{stages}/{what}"


def _stage(number: int, what: str) -> str:
    return f"{TRANSFER}/stage/{number}/{what}"
