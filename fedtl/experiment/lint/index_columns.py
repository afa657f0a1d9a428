"""Inputs that may only number the rows: a person has to say whether they mean something."""

from fedtl.errors import FedTLError
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.row_notes import index_notes

WITH_COLUMNS = ("table", "npz")


def index_columns(experiment: Experiment) -> list[str]:
    """Return a question for columns without a name, and for those that count or name the rows; none where rows cannot be read."""
    if experiment.data.source not in WITH_COLUMNS:
        return []
    try:
        return list(index_notes(read_data_schema(experiment, look=True).silos))
    except FedTLError:
        return []  # the dry run, or the command that trains, says why
