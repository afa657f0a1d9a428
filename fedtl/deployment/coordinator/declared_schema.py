"""A plan whose coordinator has no rows: the schema is declared, and ``data.path`` need not exist."""

from collections.abc import Sequence
from pathlib import Path

from fedtl.data.columns import declared_columns
from fedtl.data.registry import DATA
from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import parse_experiment, read_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import DataSchema, SiloSchema
from fedtl.methods.base import own_labels


def declared_schema(experiment: Experiment, shape: tuple[int, ...], classes: tuple[str, ...]) -> DataSchema:
    """Return the schema that a coordinator declares: the shape of an input, and the labels. Raises ConfigError."""
    local, task = own_labels(method_of(experiment.method)), experiment.data.predicted
    if classes and not task.has_classes:
        raise ConfigError(f'--classes: data.task = "{task.name}" does not use it; set data.classes')
    if task.has_classes and not (classes or local):
        raise ConfigError(
            f"method {experiment.method.name!r} shares the head, so its labels must be known: add --classes"
        )
    labels = (classes or ("0", "1")) if task.has_classes else ()
    inputs = tuple(name for column in declared_columns(experiment.data) for name in column.inputs)
    if len(shape) == 1 and len(inputs) != shape[0]:
        raise ConfigError(
            f"--shape {shape[0]} declares a table of {shape[0]} inputs, and its columns are "
            f"{', '.join(inputs) or 'not named'}; use --columns NAME,NAME,... instead of --shape"
        )
    return DataSchema({"schema": SiloSchema(shape, inputs, labels, frozenset(labels), 0)}, task=task)


def load_without_rows(name: str, overrides: Sequence[str], folder: Path) -> Experiment:
    """
    Return an experiment whose schema is declared, so that its ``data.path`` need not exist here. No row is read, and no path
    enters a bundle. ``folder``: one that exists, which stands in for it. Raises ConfigError.
    """
    table = read_experiment(name, overrides)
    data = table.setdefault("data", {})
    source = DATA.get(data.get("source", DataSettings().source))
    if source and source.needs_path and not (data.get("path") and Path(data["path"]).exists()):
        data["path"] = str(folder.absolute())
    return parse_experiment(table)
