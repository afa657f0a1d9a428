"""Checks of ``[compare.tune]`` that the schema cannot make: what may be tried, and when nothing may."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import check_choice, shorten, unknown_setting
from fedtl.experiment.config.model_schema import TrainSettings
from fedtl.experiment.config.schema import ENSEMBLE, Experiment, MethodSettings, TrialSettings
from fedtl.methods.registry import METHODS

TABLES = ("train", "method")
FIXED = {
    "train.epochs": "methods would train different numbers of epochs",
    "method.name": "list methods in compare.methods",
    "method.terms": "a method with other terms is another method",
}
PRIVATE = (
    "compare.tune under [privacy]: a choice on private validation rows uses privacy budget that is not charged; remove "
    '[compare.tune], choose settings on public rows, and set privacy.tuning = "public"'
)


def tune_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each value list that cannot be tried."""
    tune, compare = experiment.compare.tune, experiment.compare
    if ENSEMBLE in compare.methods and "local" not in compare.methods:
        yield f'compare.methods lists "{ENSEMBLE}" without "local", whose models it averages; add "local"'
    if tune == TrialSettings():
        return
    if experiment.privacy is not None:
        yield PRIVATE
    yield from _of_tables({"train": tune.train, "method": tune.method}, "compare.tune.")
    for name, tables in tune.own.items():
        if name not in METHODS:
            yield _unknown(name)
        elif not isinstance(tables, Mapping):
            yield f"compare.tune.{name} = {shorten(tables)}: must be a table"
        else:
            yield from _of_tables(tables, f"compare.tune.{name}.")
    if tune.trials and not (tune.train or tune.method or tune.own):
        yield f"compare.tune.trials = {tune.trials}, but there are no values to try; list some, as in train.lr = [0.01, 0.1]"


def _unknown(name: str) -> str:
    if "." in name:
        return unknown_setting(f"compare.tune.{name}", [f"compare.tune.{name}"])
    if name in TrainSettings.model_fields:
        return f'"compare.tune.{name}" is not a setting; did you mean "compare.tune.train.{name}"?'
    try:
        check_choice((*TABLES, "trials", *METHODS), name, "compare.tune")
    except ConfigError as error:
        return str(error)
    return f"compare.tune.{name} is not a method"


def _of_tables(tables: Mapping[str, Any], at: str) -> Iterator[str]:
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, Mapping):
            yield (
                f"{at}{name} is not a table of settings to try; write them as in the experiment: "
                f"{at}train.lr = [0.01, 0.1] or {at}method.mu = [0.1, 1.0]"
            )
            continue
        for key, value in table.items():
            yield from _of_setting(f"{name}.{key}", value, at)


def _of_setting(path: str, value: Any, at: str) -> Iterator[str]:
    table, _, key = path.partition(".")
    if path in FIXED:
        yield f"{at}{path} cannot be tried: {FIXED[path]}; remove it"
    elif table == "train" and key not in TrainSettings.model_fields:
        yield unknown_setting(f"{at}{path}", [f"{at}train.{name}" for name in TrainSettings.model_fields])
    elif isinstance(value, Mapping):
        if table == "train" or key not in MethodSettings.model_fields:
            yield f"{at}{path} = {shorten(value)}: must be a list of values to try"
            return
        for inner, values in value.items():
            yield from _of_setting(f"{path}.{inner}", values, at)
    elif not isinstance(value, list) or not value:
        yield f"{at}{path} = {shorten(value)}: must be a list of values to try"
    elif any(value.count(one) > 1 for one in value):
        yield f"{at}{path} = {shorten(value)} lists a value twice; list it once"
