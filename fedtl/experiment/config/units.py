"""Which sources can say whose row each is, and what ``[privacy]`` requires of ``[data]``."""

from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.config.table_checks import TABLES

UNITS = (*TABLES, "npz")


def has_units(data: DataSettings) -> bool:
    """Return whether the source can say whose row each is."""
    return data.source in UNITS or bool(data.manifest)


def with_unit(experiment: Experiment) -> Experiment:
    """
    Return the experiment with what ``[privacy]`` requires of ``[data]``: each row is prepared independently of the others, and
    rows of one protected unit are kept together. Raises ConfigError.
    """
    if experiment.privacy is None:
        return experiment
    privacy, data = experiment.privacy, experiment.data.model_copy(update={"by_record": True})
    experiment = experiment.model_copy(update={"data": data})
    if privacy.unit == "record" or privacy.unit == data.unit_column:
        return experiment
    if not has_units(data):
        raise ConfigError(
            f"privacy.unit = {privacy.unit!r}: source {data.source!r} cannot say which rows belong to the same "
            f'{privacy.unit}; use source "table" or "npz", or "images" with data.manifest, or set privacy.unit = "record"'
        )
    if data.unit_column:
        raise ConfigError(
            f"privacy.unit = {privacy.unit!r}, but data.unit_column = {data.unit_column!r}; name the same column in both"
        )
    return experiment.model_copy(update={"data": data.model_copy(update={"unit_column": privacy.unit})})
