"""The rows of a finished run that had them in memory, passed once more, and whether they are the same rows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedtl.api.experiments import Data, stored_rows
from fedtl.data.memory import SOURCE
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study, build
from fedtl.simulation.shared_store import SharedStore, temporary_store


@contextmanager
def run_rows(folder: RunFolder, data: Data | None) -> Iterator[SharedStore | None]:
    """
    A store with the stored rows of a run; None where files have them. Raises ConfigError where ``data`` is missing or must not
    be passed, and DataError where the rows are not those of the run.
    """
    experiment = folder.experiment()
    in_memory = experiment.data.source == SOURCE
    if in_memory and data is None:
        raise ConfigError("the run had its rows in memory; pass them again: data = ...")
    if data is not None and not in_memory:
        raise ConfigError(
            f"data: the run read its rows with data.source = {experiment.data.source!r}; do not pass data"
        )
    with stored_rows(experiment, data) as (same, store), temporary_store() as prepared:
        if store is not None:
            study = build(same, store, prepared)
            for name in study.training:
                _check_silo(folder, study, name)
        yield store


def _check_silo(folder: RunFolder, study: Study, name: str) -> None:
    """Compare numbers of rows, labels of test rows and what was learned from training inputs. Raises DataError."""
    ran = folder.result().silos.get(name)
    trained, test = study.data(name).train, study.evaluation_set(name)
    stored = folder.tensors(f"silos/{name}/test.safetensors") if ran else {}
    if (
        ran is None
        or (ran.train, ran.test) != (len(trained), len(test.test))
        or not torch.equal(stored["y"], test.test.y)
        or not torch.equal(stored["ids"], test.ids)
        or folder.inputs(name)[0] != study.silo_data.inputs(name)
    ):
        raise DataError(f"data: the rows of silo {name} are not those of the run; pass the same rows")
