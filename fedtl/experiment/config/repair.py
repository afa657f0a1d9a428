"""Every mistake in an experiment at once, and what can still be looked at without them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fedtl.errors import ConfigError
from fedtl.experiment.config.checks import contradictions, of_data, with_unit
from fedtl.experiment.config.messages import SettingPath, lines
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment, MethodSettings, TrainSettings
from fedtl.methods.optimizers import OPTIMIZERS

STAND_INS: Mapping[SettingPath, Any] = {("privacy", "epsilon"): 1.0}  # for what has no default


@dataclass(frozen=True)
class Mended:
    """
    ``experiment``: as it was written but for ``mistakes``, a line each, for which the defaults stand. ``rows``: whether
    none of them is about which rows there are and whose, so that looking at those means something.
    """

    experiment: Experiment
    mistakes: tuple[str, ...]
    rows: bool


def mended(table: Mapping[str, Any]) -> Mended:
    """Never raises for what the table holds."""
    experiment, said, wrong = _of_the_right_types(table)
    rows = not any(place[0] == "data" for place in wrong)
    try:
        experiment = with_unit(experiment)
    except ConfigError as error:
        said, rows = [*said, str(error)], False
    rows = rows and not any(of_data(experiment.data))
    said += contradictions(experiment)
    return Mended(_workable(experiment), tuple(dict.fromkeys(said)), rows)


def _of_the_right_types(table: Mapping[str, Any]) -> tuple[Experiment, list[str], list[SettingPath]]:
    """The experiment without what the schema does not take, the lines about that, and where it stood."""
    said, wrong, left = list[str](), list[SettingPath](), dict[str, Any](table)
    while True:
        try:
            return Experiment.model_validate(left), said, wrong
        except ValidationError as error:
            found = lines(error, left)
            said += found.values()
            wrong += found
            for place in found:
                left = _mended(left, place)


def _mended(table: Mapping[str, Any], place: Sequence[str | int]) -> dict[str, Any]:
    """Without the setting at ``place``, or with what stands in for it; a mistake within a list is the whole list's."""
    keys = [str(key) for key in place]
    left = inner = dict(table)
    for number, key in enumerate(keys[:-1]):
        if not isinstance(inner.get(key), Mapping) or isinstance(place[number + 1], int):
            inner.pop(key, None)
            return left
        inner[key] = dict(inner[key])
        inner = inner[key]
    inner.pop(keys[-1], None)
    if tuple(place) in STAND_INS:
        inner[keys[-1]] = STAND_INS[tuple(place)]
    return left


def _workable(experiment: Experiment) -> Experiment:
    """The default method or optimiser where those that are named cannot be had."""
    if experiment.train.optimizer not in OPTIMIZERS:
        default = TrainSettings()
        update = {"optimizer": default.optimizer, "momentum": default.momentum}
        experiment = experiment.model_copy(update={"train": experiment.train.model_copy(update=update)})
    try:
        method_of(experiment.method)
    except ConfigError:
        experiment = experiment.model_copy(update={"method": MethodSettings()})
    return experiment
