"""Experiments from files or values, and rows in memory for them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedtl.data.dataset import SiloDataset
from fedtl.data.memory import SOURCE, rows_in_memory
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import merge_settings, parse_experiment, read_experiment, with_changes
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.study import build
from fedtl.simulation.shared_store import SharedStore, temporary_store

Source = str | Path | Mapping[str, Any] | Experiment
Data = Mapping[str, Any]


def load_experiment(source: Source, **settings: Any) -> Experiment:
    """
    An experiment, checked. ``source``: a TOML file, the name of a shipped experiment ("digits"), a mapping with the keys
    of such a file, or another experiment. ``settings`` replace or add keys, tables by name:
    ``load_experiment("digits", rounds=5, train={"lr": 0.1})``.

    Paths in a file are relative to it, other paths to the working directory. Raises ConfigError.
    """
    if isinstance(source, Experiment):
        table = source.model_dump(exclude_none=True, exclude_unset=True)
    elif isinstance(source, Mapping):
        table = merge_settings({}, source)
    elif isinstance(source, str | Path):
        table = read_experiment(str(source))
    else:
        raise ConfigError(
            f'the experiment is of type {type(source).__name__}; pass a TOML file, the name of a shipped one ("digits"), or a mapping '
            "of settings"
        )
    return parse_experiment(merge_settings(table, settings))


def load_experiment_for(data: Data | None, source: Source, **settings: Any) -> Experiment:
    """
    As ``load_experiment``; with rows in memory ``data.source`` is "memory", so that every setting of a table may be set.
    Raises ConfigError also where there are no such rows and no ``data.source`` is set.
    """
    if data is not None:
        settings = merge_settings(settings, {"data": {"source": SOURCE, "path": ""}})
    experiment = load_experiment(source, **settings)
    if "source" not in experiment.data.model_fields_set:
        raise ConfigError(
            "there are no rows: pass data = ..., or set data.source; digits are the built-in example: data.source = 'digits'"
        )
    return experiment


def load_datasets(experiment: Source, data: Data | None = None) -> dict[str, SiloDataset]:
    """
    The rows that each silo trains on and validates with, prepared as a run prepares them. Test rows are not included.
    ``data``: rows in memory, as for ``run``. Raises ConfigError or DataError.
    """
    with (
        stored_rows(load_experiment_for(data, experiment), data) as (checked, stored),
        temporary_store() as store,
    ):
        study = build(checked, stored or store, store)
        return {name: study.data(name) for name in study.training}


@contextmanager
def stored_rows(experiment: Experiment, data: Data | None) -> Iterator[tuple[Experiment, SharedStore | None]]:
    """The experiment for these rows in memory, and a store that holds them for every process of a run; None for None."""
    if data is None:
        yield experiment, None
        return
    settings, rows = rows_in_memory(data, experiment.data)
    with temporary_store() as store:
        for name, raw in rows.items():
            store.put(f"{name}.raw", raw)
        yield with_changes(experiment, data=settings), store
