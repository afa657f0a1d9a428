"""Run an experiment, compare methods, and open what a run left."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from fedtl.api.bars import progress_bar
from fedtl.api.custom import check_sendable, custom_values
from fedtl.api.experiments import Data, Source, load_experiment_for, stored_rows
from fedtl.api.results import FinishedComparison, FinishedRun
from fedtl.errors import ConfigError
from fedtl.experiment.compare import compare as compare_methods
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.run import Given
from fedtl.experiment.run import run as run_experiment
from fedtl.experiment.run_folder import RUNS, RunFolder
from fedtl.methods.base import Method
from fedtl.models.custom import Build
from fedtl.simulation.choose import choose_device, default_workers
from fedtl.simulation.worker import exit_if_unguarded


def run(
    experiment: Source,
    data: Data | None = None,
    *,
    method: Method | None = None,
    model: nn.Module | Build | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = False,
) -> FinishedRun:
    """
    Train the experiment's method and return the finished run.

    ``experiment``: an Experiment, or what ``load_experiment`` takes. ``data``: rows in memory by silo, each (x, y), a
    DataFrame, or a mapping with train_x, train_y and more; they replace ``[data] source``.

    ``method``: in place of the one that ``[method]`` names and of its own settings. ``model``: in place of the one that
    ``[model]`` names: a module, whose last Linear layer becomes the head and whose other weights are the initial ones, or a
    function of the shape of one input that returns a module and the path of its classifier. No file holds these values.

    ``out``: a new folder for the files; default: one in runs/. ``device``: "auto", "cpu" or "cuda". ``workers``: processes at once; with more than 1,
    a script must make this call under ``if __name__ == "__main__"``. ``progress``: show a bar.

    Raises ConfigError, DataError or ModelError before anything is trained, BudgetExhausted, and NotEnoughSilos.
    """
    exit_if_unguarded()
    values = custom_values(method, model)
    chosen = _with_workers(values.put_into(load_experiment_for(data, experiment)), workers)
    if chosen.engine.name == "ray" or chosen.engine.workers != 1:
        check_sendable(values)
    with (
        stored_rows(chosen, data) as (ready, store),
        _new_folder(out, ready.method.name, ready) as folder,
        progress_bar(progress, ready.method.name) as show,
    ):
        run_experiment(
            *(ready, folder, choose_device(device)),
            progress=lambda finished: show(finished.after.round, ready.rounds),
            given=Given(store),
            finishing=show,
        )
    return FinishedRun(folder.path, values)


def compare(
    experiment: Source,
    data: Data | None = None,
    *,
    methods: Sequence[str] | None = None,
    custom: Mapping[str, Method] | None = None,
    model: nn.Module | Build | None = None,
    seeds: Sequence[int] | None = None,
    tune: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = False,
) -> FinishedComparison:
    """
    Train several methods on the same silos and seeds, and return for every silo whether joining helped.

    ``methods``, ``seeds``: in place of those in ``[compare]``. ``custom``: further methods as values, by name; the column of
    "mine" is "custom:mine". ``tune``: values to try on validation rows, as in ``[compare.tune]``:
    ``{"train": {"lr": [0.01, 0.1]}}``. The other arguments and errors are those of ``run``.

    Several runs at once need a process each, so a script must make this call under ``if __name__ == "__main__"``.
    """
    exit_if_unguarded()
    given = {"methods": methods, "seeds": seeds, "tune": tune}
    table = {key: _plain_list(value) for key, value in given.items() if value is not None}
    values = custom_values(None, model, custom)
    check_sendable(values)
    chosen = _with_workers(values.put_into(load_experiment_for(data, experiment, compare=table)), workers)
    with stored_rows(chosen, data) as (ready, store), _new_folder(out, "compare", ready) as folder:
        chosen_device = choose_device(device)
        processes = ready.engine.workers or default_workers(chosen_device)
        with progress_bar(progress, "compare") as show:
            compare_methods(ready, folder, processes, chosen_device, show, raws=store)
    return FinishedComparison(folder.path, values)


def load_run(
    path: str | Path,
    *,
    method: Method | None = None,
    model: nn.Module | Build | None = None,
    custom: Mapping[str, Method] | None = None,
) -> FinishedRun | FinishedComparison:
    """
    A finished run or comparison from its folder. ``method``, ``model``, ``custom``: the values that it was run with; only
    predictions with a custom model and audits need them. Raises ConfigError.
    """
    values = custom_values(method, model, custom)
    folder = RunFolder.open(Path(path), values)
    folder.experiment()
    finished = FinishedComparison if folder.has("comparison.json") else FinishedRun
    return finished(folder.path, values)


@contextmanager
def _new_folder(out: str | Path | None, name: str, experiment: Experiment) -> Iterator[RunFolder]:
    """A new run folder. It is removed where an error comes before anything was trained, so that the next try can use it."""
    folder = RunFolder.create(_out(out, name), experiment)
    try:
        yield folder
    except BaseException:
        folder.discard_untouched()
        raise


def _out(out: str | Path | None, name: str) -> Path:
    return Path(out) if out is not None else Path(RUNS) / f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def _plain_list(value: Any) -> Any:
    """Return a list for a tuple or a range; another value as it is."""
    return list(value) if isinstance(value, tuple | range) else value


def _with_workers(experiment: Experiment, workers: int | None) -> Experiment:
    if workers is None:
        return experiment
    if workers < 1:
        raise ConfigError(f"workers = {workers}: give at least 1")
    return with_changes(experiment, engine=experiment.engine.model_copy(update={"workers": workers}))
