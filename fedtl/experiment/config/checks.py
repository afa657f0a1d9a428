"""What contradicts itself in an experiment, or is not there: refused before anything is read or trained."""

import os.path
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fedtl.data.constants import parse_bounds
from fedtl.data.registry import DATA
from fedtl.data.settings import SCALES, DataSettings
from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import choice
from fedtl.experiment.config.resolve import method_of, server_of
from fedtl.experiment.config.schema import Experiment, ModelSettings, TrainSettings
from fedtl.methods.optimizers import OPTIMIZERS
from fedtl.methods.registry import METHODS
from fedtl.simulation.settings import EngineSettings

REGRESSION = ("r2", "rmse")
TABLES = ("table", "memory")  # sources with columns by name
UNITS = (*TABLES, "npz")
UNIT_WAY = "only a table has a column that says whose row it is, and an npz its arrays train_<name>"
METRICS = ("auto", "accuracy", "balanced_accuracy", "auc", *REGRESSION)


def checked(experiment: Experiment) -> Experiment:
    """Refuse what contradicts itself, with the first reason. Raises ConfigError."""
    for text in contradictions(experiment):
        raise ConfigError(text)
    return experiment


def contradictions(experiment: Experiment) -> Iterator[str]:
    """What contradicts itself, or is not there: one line each."""
    train, compare = experiment.train, experiment.compare
    yield from _said(method_of, experiment.method)
    yield from _said(server_of, experiment.method)
    yield from _said(choice, OPTIMIZERS, train.optimizer, "train.optimizer")
    for name in compare.methods:
        yield from _said(choice, METHODS, name, "compare.methods")
    yield from _said(choice, METRICS, compare.metric, "compare.metric")
    if compare.metric != "auto" and (compare.metric in REGRESSION) != (experiment.data.task == "regression"):
        yield f"compare.metric = {compare.metric!r} does not measure {experiment.data.task}"
    per_round, minimum = experiment.silos_per_round, experiment.minimum_silos
    if isinstance(per_round, int) and per_round < minimum:
        yield f"silos_per_round = {per_round} can never give minimum_silos = {minimum}"
    if train.optimizer != "sgd" and train.momentum != TrainSettings().momentum:
        yield f'train.momentum belongs to "sgd", not to {train.optimizer!r}'
    yield from _twice(experiment)
    yield from of_data(experiment.data)
    yield from _of_target(experiment)
    yield from _of_start(experiment.model, experiment.data)
    yield from _of_engine(experiment.engine)


def of_data(data: DataSettings) -> Iterator[str]:
    """What is wrong with ``[data]`` by itself: then there are no rows to look at."""
    yield from _said(choice, DATA, data.source, "data.source")
    if data.source in DATA:
        yield from _of_source(data)
    yield from _of_parts(data)


def _said(check: Callable[..., Any], *words: Any) -> Iterator[str]:
    """What a check says that raises."""
    try:
        check(*words)
    except ConfigError as error:
        yield str(error)


def _of_target(experiment: Experiment) -> Iterator[str]:
    try:
        needed = method_of(experiment.method).needs_target
    except ConfigError:
        return  # a method that cannot be made needs nothing
    if needed and not experiment.data.target_domain:
        name = experiment.method.name
        yield f"method {name!r} adapts to a second domain; data.target_domain does not name one"


def with_unit(experiment: Experiment) -> Experiment:
    """
    Under ``[privacy]`` each row is prepared by itself, and the column that privacy protects is the one by which rows are
    kept together. Raises ConfigError.
    """
    if experiment.privacy is None:
        return experiment
    privacy, data = experiment.privacy, experiment.data.model_copy(update={"by_record": True})
    experiment = experiment.model_copy(update={"data": data})
    if privacy.unit == "record" or privacy.unit == data.unit_column:
        return experiment
    if data.source not in UNITS:
        raise ConfigError(f'privacy.unit = {privacy.unit!r}: {UNIT_WAY}; "record" protects single rows')
    if data.unit_column:
        raise ConfigError(
            f"privacy.unit = {privacy.unit!r} and data.unit_column = {data.unit_column!r}: name one column"
        )
    return experiment.model_copy(update={"data": data.model_copy(update={"unit_column": privacy.unit})})


def _twice(experiment: Experiment) -> Iterator[str]:
    """A seed or a silo that is listed twice would count twice."""
    data, compare = experiment.data, experiment.compare
    lists: dict[str, Sequence[Any]] = {"data.silos": data.silos, "data.late": data.late}
    lists |= {
        "data.columns": data.columns,
        "data.classes": data.classes,
        "model.pretrain_on": experiment.model.pretrain_on,
    }
    lists |= {"compare.methods": compare.methods, "compare.seeds": compare.seeds}
    for key, values in lists.items():
        for value in dict.fromkeys(values):
            if values.count(value) > 1:
                yield f"{key} lists {value!r} {values.count(value)} times; once is enough"


def _of_source(data: DataSettings) -> Iterator[str]:
    """The source reads from where it is told to, and has the settings that are set."""
    source = DATA[data.source]
    if source.needs_path and not (data.path and os.path.exists(data.path)):
        at = f"data.path: {data.path} does not exist" if data.path else "data.path is empty"
        yield f"{at}; source {data.source!r} reads from there"
    if data.path and not source.needs_path:
        yield (f"data.path is set, but source {data.source!r} reads no path; remove one of the two")
    for key in ("silo_column", "domain_column", "positive_above", "categories"):
        if data.source not in TABLES and getattr(data, key) not in ("", None, [], {}):
            yield f'data.{key} is for source "table", not {data.source!r}'
    if data.columns and data.source not in UNITS:
        yield f'data.columns is for source "table" or "npz", not {data.source!r}'
    if data.unit_column and (data.source not in UNITS or data.unit_column in ("x", "y")):
        yield f"data.unit_column = {data.unit_column!r}: {UNIT_WAY}"
    if data.source == "images" and data.target_domain:
        yield 'data.target_domain: source "images" has no second domain'
    if data.source == "table" and bool(data.domain_column) != bool(data.target_domain):
        yield ("data.domain_column and data.target_domain go together: which column, and which value of it")


def _of_parts(data: DataSettings) -> Iterator[str]:
    if data.test + data.val >= 1:
        yield f"data.test = {data.test} and data.val = {data.val} leave no training rows"
    if data.positive_above is not None and data.task == "regression":
        yield 'data.positive_above makes two classes; that is no data.task = "regression"'
    for key in ("label", "silo_column", "domain_column", "unit_column"):
        if getattr(data, key) in data.columns:
            yield f"data.columns lists {getattr(data, key)!r}, which is data.{key} and no input"
    if data.scale not in SCALES and not os.path.isfile(data.scale):
        wish = '"silo", "none", "dp" or a TOML file of constants'
        yield f"data.scale is {wish}; there is no file {data.scale}"
    for name, entry in data.bounds.items():
        yield from _said(parse_bounds, name, entry)
    if data.classes and data.task == "regression":
        yield 'data.classes lists labels; data.task = "regression" has values'
    if len(data.classes) == 1:
        yield f"data.classes lists the one label {data.classes[0]!r}; a classification needs two"


def _of_engine(engine: EngineSettings) -> Iterator[str]:
    """Each engine has settings of its own."""
    if engine.address and engine.name != "ray":
        yield f'engine.address is for "ray", not for {engine.name!r}'
    if engine.stack > 1 and (engine.name == "ray" or engine.workers > 1):
        other = 'engine.name = "ray"' if engine.name == "ray" else f"engine.workers = {engine.workers}"
        yield (f"engine.stack = {engine.stack} trains in one process, and {other} in several; keep one")


def _of_start(model: ModelSettings, data: DataSettings) -> Iterator[str]:
    """Where the weights come from: one place, and one that is there."""
    if overlap := sorted(set(data.late) & set(model.pretrain_on)):
        yield (f"silo {overlap[0]!r} is in data.late and in model.pretrain_on; it can be one of the two")
    if model.weights and model.pretrain_on:
        yield "model.weights and model.pretrain_on both say where the backbone starts; keep one"
    if model.weights not in ("", "pretrained") and not os.path.isfile(model.weights):
        yield f"model.weights: there is no file {model.weights}"
    for place in model.pretrain_on:
        source, colon, path = place.partition(":")
        if colon and source not in DATA:
            yield from _said(choice, DATA, source, "model.pretrain_on")
        elif colon and DATA[source].needs_path and not os.path.exists(path):
            yield (f"model.pretrain_on: {path or '(empty)'} does not exist; {source!r} reads from there")
