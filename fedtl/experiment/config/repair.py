"""Find all mistakes in an experiment at once, and replace wrong settings so that the rest can still be checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fedtl._util.toml_text import Table
from fedtl.errors import ConfigError
from fedtl.experiment.config.checks import contradictions, data_contradictions
from fedtl.experiment.config.messages import SettingPath, mistake_lines
from fedtl.experiment.config.model_schema import TrainSettings
from fedtl.experiment.config.resolve import changes_of, method_of, model_arguments
from fedtl.experiment.config.schema import Experiment, MethodSettings
from fedtl.experiment.config.units import with_unit
from fedtl.methods.optimizers import OPTIMIZERS

STAND_INS: Mapping[SettingPath, Any] = {("privacy", "epsilon"): 1.0}  # for settings without a default


@dataclass(frozen=True)
class Repaired:
    """
    ``experiment``: the experiment, with defaults in place of wrong settings. ``mistakes``: a line each. ``rows``: whether
    the settings that select the rows and their units are right, so that the rows can be checked.
    """

    experiment: Experiment
    mistakes: tuple[str, ...]
    rows: bool


def repair(table: Mapping[str, Any]) -> Repaired:
    """Return the experiment with wrong settings replaced by defaults. Raises nothing, whatever the table holds."""
    experiment, messages, wrong = _valid_experiment(table)
    rows = not any(path[0] == "data" for path in wrong)
    try:
        experiment = with_unit(experiment)
    except ConfigError as error:
        messages, rows = [*messages, str(error)], False
    rows = rows and not any(data_contradictions(experiment.data))
    messages += contradictions(experiment)
    if experiment.method.is_absent:
        messages.append(f"method.name = {experiment.method.name!r} is not here, so it cannot be checked")
    return Repaired(_with_known_names(experiment), tuple(dict.fromkeys(messages)), rows)


def _valid_experiment(table: Mapping[str, Any]) -> tuple[Experiment, list[str], list[SettingPath]]:
    """Return the experiment without what the schema refuses, the messages about that, and the paths of what was removed."""
    messages, wrong, rest = list[str](), list[SettingPath](), dict(table)
    while True:
        try:
            return Experiment.model_validate(rest), messages, wrong
        except ValidationError as error:
            mistakes = mistake_lines(error, rest)
            messages += mistakes.values()
            wrong += mistakes
            for path in mistakes:
                rest = _without(rest, path)


def _without(table: Mapping[str, Any], path: Sequence[str | int]) -> Table:
    """Return the table without the setting at ``path``, or with its stand-in. A wrong list entry removes the whole list."""
    keys = [str(key) for key in path]
    rest = inner = dict(table)
    for number, key in enumerate(keys[:-1]):
        if not isinstance(inner.get(key), Mapping) or isinstance(path[number + 1], int):
            inner.pop(key, None)
            return rest
        inner[key] = dict(inner[key])
        inner = inner[key]
    inner.pop(keys[-1], None)
    if tuple(path) in STAND_INS:
        inner[keys[-1]] = STAND_INS[tuple(path)]
    return rest


def _with_known_names(experiment: Experiment) -> Experiment:
    """Return the experiment with the default method, optimiser or model settings where its own cannot be used."""
    if experiment.train.optimizer not in OPTIMIZERS:
        default = TrainSettings()
        update = {"optimizer": default.optimizer, "momentum": default.momentum}
        experiment = experiment.model_copy(update={"train": experiment.train.model_copy(update=update)})
    try:
        changes_of(experiment.train)
    except ConfigError:
        train = experiment.train.model_copy(update={"augment": []})
        experiment = experiment.model_copy(update={"train": train})
    try:
        method_of(experiment.method)
    except ConfigError:
        experiment = experiment.model_copy(update={"method": MethodSettings()})
    try:
        model_arguments(experiment.model)
    except ConfigError:
        model = experiment.model.model_copy(update={"settings": {}})
        experiment = experiment.model_copy(update={"model": model})
    return experiment
