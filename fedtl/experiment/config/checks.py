"""Checks of an experiment that the schema cannot make: settings that contradict each other, and missing files."""

import os.path
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from fedtl.data.constants import parse_bounds
from fedtl.data.hub_sets import HUB, is_hub_set
from fedtl.data.registry import DATA
from fedtl.data.settings import SCALES, DataSettings
from fedtl.data.torchvision_sets import SETS
from fedtl.errors import ConfigError
from fedtl.experiment.config.adapter_checks import adapter_contradictions
from fedtl.experiment.config.deal_checks import deal_mistakes
from fedtl.experiment.config.image_checks import image_contradictions
from fedtl.experiment.config.messages import check_choice
from fedtl.experiment.config.model_schema import ModelSettings
from fedtl.experiment.config.public_checks import public_contradictions
from fedtl.experiment.config.resolve import method_of, model_arguments, server_of
from fedtl.experiment.config.schema import ENSEMBLE, Experiment, WireSettings, is_custom
from fedtl.experiment.config.sequence_checks import sequence_mistakes
from fedtl.experiment.config.set_checks import leave_one_out_contradictions, set_contradictions
from fedtl.experiment.config.silo_model_checks import silo_model_contradictions
from fedtl.experiment.config.sql_checks import sql_mistakes
from fedtl.experiment.config.stream_checks import stream_contradictions, stream_mistakes
from fedtl.experiment.config.table_checks import rule_contradictions, table_contradictions
from fedtl.experiment.config.target_checks import may_lack_labels, target_contradictions
from fedtl.experiment.config.task_checks import label_mistakes, task_contradictions
from fedtl.experiment.config.text_checks import text_contradictions
from fedtl.experiment.config.train_checks import train_contradictions
from fedtl.experiment.config.tune_checks import tune_contradictions
from fedtl.experiment.config.units import UNITS, has_units
from fedtl.methods.registry import METHODS
from fedtl.models.exported import ABOUT
from fedtl.simulation.settings import EngineSettings
from fedtl.tasks.metrics import METRICS


def check_experiment(experiment: Experiment) -> Experiment:
    """Return the experiment. Raises ConfigError for the first setting that contradicts another."""
    for text in contradictions(experiment):
        raise ConfigError(text)
    return experiment


def contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting that contradicts another, and for each file that does not exist."""
    compare = experiment.compare
    if not experiment.method.is_absent:  # a run folder does not hold it, and can be read all the same
        yield from _messages_of(method_of, experiment.method)
    yield from _messages_of(server_of, experiment.method)
    yield from _of_methods(compare.methods)
    yield from tune_contradictions(experiment)
    yield from set_contradictions(experiment)
    yield from leave_one_out_contradictions(experiment)
    yield from _messages_of(check_choice, ("auto", *METRICS), compare.metric, "compare.metric")
    if compare.metric != "auto" and compare.metric not in experiment.data.predicted.measured:
        yield f'compare.metric = {compare.metric!r} is not a metric of {experiment.data.task}; set another, or "auto"'
    per_round, minimum = experiment.silos_per_round, experiment.minimum_silos
    if isinstance(per_round, int) and per_round < minimum:
        yield (
            f"silos_per_round = {per_round} is below minimum_silos = {minimum}; raise the first or lower the second"
        )
    forms = (experiment.wire.dtype, *compare.wire)
    if "top-k" not in forms and experiment.wire.fraction != WireSettings().fraction:
        yield f'wire.fraction is a setting of wire.dtype "top-k", not of {experiment.wire.dtype!r}; remove it'
    yield from train_contradictions(experiment)
    if compare.folds > 1 and experiment.data.folds > 1:
        yield f"compare.folds = {compare.folds} and data.folds = {experiment.data.folds}; remove data.folds: compare does every fold"
    yield from _repeated_values(experiment)
    yield from data_contradictions(experiment.data)
    yield from target_contradictions(experiment)
    yield from _of_labels(experiment.data, experiment)
    yield from _of_wrong_labels(experiment.data, experiment)
    yield from _of_classes(experiment)
    yield from public_contradictions(experiment)
    yield from task_contradictions(experiment)
    yield from stream_contradictions(experiment)
    yield from silo_model_contradictions(experiment)
    yield from adapter_contradictions(experiment)
    yield from text_contradictions(experiment)
    yield from _messages_of(model_arguments, experiment.model)
    yield from _start_contradictions(experiment.model, experiment.data)
    yield from _engine_contradictions(experiment.engine)


def _of_methods(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name == "constant":
            yield 'compare.methods lists "constant", which is computed wherever "local" is; remove it'
        elif not is_custom(name):
            yield from _messages_of(
                check_choice, (*METHODS, ENSEMBLE), name, "compare.methods", "fedtl methods"
            )


def data_contradictions(data: DataSettings) -> Iterator[str]:
    """Yield a line for each mistake within ``[data]``; with one, no rows can be read."""
    yield from _messages_of(check_choice, DATA, data.source, "data.source")
    if data.source in DATA:
        yield from _source_contradictions(data)
    yield from _of_parts(data)
    yield from image_contradictions(data)


def _messages_of(check: Callable[..., Any], *words: Any) -> Iterator[str]:
    """Yield the message of the ConfigError that a check raises."""
    try:
        check(*words)
    except ConfigError as error:
        yield str(error)


def _of_labels(data: DataSettings, experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting that contradicts rows whose labels are not used, or that have none."""
    fraction = data.label_fraction
    if not may_lack_labels(data):
        return
    few = "data.label_fraction" if fraction != 1.0 else 'data.missing_labels = "inputs"'
    key = "data.unlabelled" if data.unlabelled else few
    if experiment.privacy is not None:
        yield f"{key} and [privacy]: the accounting covers labelled training rows only; remove one of them"
    if data.target_domain:
        yield f"{key} and data.target_domain both give rows without labels; remove one of them"
    if data.by_record and data.missing_labels == "inputs":
        yield (
            'data.missing_labels = "inputs" and data.by_record: which rows are tested on would depend on which have labels; remove one '
            "of them"
        )
    others = {"data.late": data.late, "model.pretrain_on": experiment.model.pretrain_on}
    for other, names in others.items():
        if both := sorted({*data.unlabelled, *(fraction if isinstance(fraction, dict) else ())} & set(names)):
            yield f"silo {both[0]!r} is in {key} and in {other}; remove it from one of them"
    if isinstance(fraction, dict) and (both := sorted(set(data.unlabelled) & set(fraction))):
        yield f"silo {both[0]!r} is in data.unlabelled and in data.label_fraction; remove it from one of them"
    if data.unlabelled and data.task == "regression" and data.scale == "silo":
        yield (
            'data.unlabelled and data.scale = "silo": a silo without labels cannot scale its predictions; set data.scale to a TOML '
            'file of constants, or to "none"'
        )


def _of_wrong_labels(data: DataSettings, experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting that ``data.wrong_labels`` contradicts."""
    if not data.wrong_labels:
        return
    if not data.predicted.exclusive:
        yield f"data.wrong_labels replaces classes, and data.task is {data.task}; remove one of them"
    if experiment.privacy is not None:
        yield "data.wrong_labels and [privacy]: wrong labels are drawn from the classes of all rows; remove one of them"
    if both := sorted(set(data.wrong_labels) & set(data.unlabelled)):
        yield f"silo {both[0]!r} is in data.wrong_labels and in data.unlabelled, where no label is used; remove it from one of them"


def _of_classes(experiment: Experiment) -> Iterator[str]:
    if experiment.data.task == "regression":
        with suppress(ConfigError):  # contradictions() reports it
            for term in method_of(experiment.method).losses:
                if term.needs_classes:
                    yield f'{type(term).__name__} compares predicted classes, but data.task = "regression"; use another method'


def _repeated_values(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each value that a list holds twice; it would count twice."""
    data, compare = experiment.data, experiment.compare
    lists: dict[str, Sequence[Any]] = {"data.silos": data.silos, "data.late": data.late}
    lists |= {
        "data.columns": data.columns,
        "data.drop": data.drop,
        "data.sets": data.sets,
        "data.classes": data.classes,
        "data.unlabelled": data.unlabelled,
        "data.public": data.public,
        "model.pretrain_on": experiment.model.pretrain_on,
    }
    lists |= {"compare.methods": compare.methods, "compare.seeds": compare.seeds}
    for key, values in lists.items():
        for value in dict.fromkeys(values):
            if values.count(value) > 1:
                yield f"{key} lists {value!r} {values.count(value)} times; list it once"


def _source_contradictions(data: DataSettings) -> Iterator[str]:
    """Yield a line where the path does not exist, and for each setting that the source does not have."""
    source = DATA[data.source]
    named = data.source == "huggingface" and is_hub_set(data.path)
    if source.needs_path and not named and not (data.path and os.path.exists(data.path)):
        problem = f"data.path: {data.path} does not exist" if data.path else "data.path is empty"
        yield f"{problem}; source {data.source!r} reads its rows from there"
    if data.path and not source.needs_path:
        yield f"data.path is set, but source {data.source!r} reads no files; remove data.path"
    if data.silo_column and data.source not in UNITS and not data.manifest:
        yield f"data.silo_column is a setting of sources {', '.join(UNITS)}, not of {data.source!r}; remove it"
    yield from table_contradictions(data)
    yield from rule_contradictions(data)
    yield from _of_named_sets(data)
    if data.silos and data.silos_except:
        yield "data.silos and data.silos_except both say which silos take part; remove one of them"
    if data.columns and data.source not in UNITS:
        yield f"data.columns is a setting of sources {', '.join(UNITS)}, not of {data.source!r}; remove it"
    if data.unit_column and (not has_units(data) or data.unit_column in ("x", "y")):
        yield (
            f"data.unit_column = {data.unit_column!r}: only sources {', '.join(UNITS)} (npz: arrays train_NAME) and images "
            "(a column of data.manifest) have one, and it cannot be x or y"
        )
    if data.source == "table" and bool(data.domain_column) != bool(data.target_domain):
        yield "data.domain_column and data.target_domain belong together; set both, to a column and to one of its values"


def _of_named_sets(data: DataSettings) -> Iterator[str]:
    by_name = data.source == "huggingface" and is_hub_set(data.path)
    for key in () if by_name else ("subset", "revision"):
        if getattr(data, key):
            yield f'data.{key} is a setting of source "huggingface" with data.path = "{HUB}OWNER/NAME"; remove it'
    if data.source != "torchvision":
        if data.sets:
            yield f'data.sets is a setting of source "torchvision", not of {data.source!r}; remove it'
        if data.download and not by_name:
            yield f'data.download is a setting of source "torchvision" and of sets of the hub of Hugging Face, not of {data.source!r}; remove it'
    elif not data.sets:
        yield f'data.sets is empty; source "torchvision" has {", ".join(SETS)}'
    for name in data.sets:
        yield from _messages_of(check_choice, SETS, name, "data.sets")


def _of_parts(data: DataSettings) -> Iterator[str]:
    if data.fold >= data.folds:
        yield f"data.fold = {data.fold}, but data.folds = {data.folds}; fold numbers start at 0"
    if data.folds > 1 and 1 / data.folds + data.val >= 1:
        yield f"data.folds = {data.folds} and data.val = {data.val} leave no training rows; lower data.val"
    elif data.folds == 1 and data.test + data.val >= 1:
        yield f"data.test = {data.test} and data.val = {data.val} leave no training rows; their sum must be below 1"
    yield from label_mistakes(data)
    if data.scale not in SCALES and not os.path.isfile(data.scale):
        yield f'data.scale = {data.scale!r}: must be "silo", "none", "dp" or a TOML file that exists'
    for name, entry in data.bounds.items():
        yield from _messages_of(parse_bounds, name, entry)
    yield from deal_mistakes(data)
    yield from sequence_mistakes(data)
    yield from stream_mistakes(data)
    yield from sql_mistakes(data)
    if data.split_column and data.target_domain:
        yield "data.split_column and data.target_domain both divide the rows; remove one of them"
    if len(data.classes) == 1 and data.predicted.exclusive:
        yield f"data.classes lists only {data.classes[0]!r}; classification needs at least two labels"


def _engine_contradictions(engine: EngineSettings) -> Iterator[str]:
    """Yield a line for each setting that the engine does not have."""
    if engine.address and engine.name != "ray":
        yield f'engine.address is a setting of engine "ray", not of {engine.name!r}; remove it'
    if engine.stack > 1 and engine.name == "ray":
        yield f'engine.stack = {engine.stack} and engine.name = "ray": workers on a cluster train one silo after another; set engine.stack = 1'


def _start_contradictions(model: ModelSettings, data: DataSettings) -> Iterator[str]:
    """Yield a line where two settings give the first weights, or where their file does not exist."""
    if overlap := sorted(set(data.late) & set(model.pretrain_on)):
        yield f"silo {overlap[0]!r} is in data.late and in model.pretrain_on; remove it from one of them"
    if model.weights and model.pretrain_on:
        yield "model.weights and model.pretrain_on both set the initial weights; remove one of them"
    if model.weights not in ("", "pretrained") and not os.path.isfile(model.weights):
        folder = os.path.dirname(model.weights)
        whole = (
            f"; set it to the export {folder} itself" if os.path.isfile(os.path.join(folder, ABOUT)) else ""
        )
        yield f"model.weights: there is no file {model.weights}{whole}"
    for entry in model.pretrain_on:
        source, colon, path = entry.partition(":")
        if colon and source not in DATA:
            yield from _messages_of(check_choice, DATA, source, "model.pretrain_on")
        elif colon and DATA[source].needs_path and not os.path.exists(path):
            yield f"model.pretrain_on: {path or '(empty path)'} does not exist; source {source!r} reads from there"
