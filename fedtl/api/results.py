"""What runs, comparisons and audits leave in their folders, as objects for notebooks."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fedtl._util.counted import counted
from fedtl.api.trained_model import TrainedModel
from fedtl.errors import ConfigError
from fedtl.experiment.columns import Repeat, repeats, run_folders
from fedtl.experiment.config.custom import NO_VALUES, CustomValues
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.pages import write_compare_page, write_run_page
from fedtl.experiment.run_folder import RunFolder
from fedtl.results.comparison import Comparison
from fedtl.results.run import RunResult

if TYPE_CHECKING:
    from pandas import DataFrame

NO_PLOTS: Mapping[str, str] = {}


@dataclass(frozen=True)
class FinishedRun:
    """
    A run in its folder. The numbers are those of ``result.json``; test rows were used once, after the last round.
    ``values``: the method and model that were passed as values; no file holds them.
    """

    path: Path
    values: CustomValues = NO_VALUES

    def __repr__(self) -> str:
        return f"FinishedRun({str(self.path)!r}: {self.result.method}, {counted(len(self.result.silos), 'silo')})"

    def _repr_html_(self) -> str:
        from fedtl.report.plots import silo_bars

        title = f"{self.result.method}, {counted(self.result.rounds, 'round')}"
        drawn = {"Test result of each silo": silo_bars(self.result)}
        return html_page(title, [self.table], self.path, drawn)

    @property
    def folder(self) -> RunFolder:
        return RunFolder.open(self.path, self.values)

    @cached_property
    def result(self) -> RunResult:
        """All numbers. Raises ConfigError where the run did not end."""
        return self.folder.result()

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment with all its settings."""
        return self.folder.experiment()

    @property
    def metrics(self) -> "DataFrame":
        """Test metrics: a row per silo, a column per metric."""
        from fedtl.api.frames import run_metrics

        return run_metrics(self.result)

    @property
    def table(self) -> "DataFrame":
        """``metrics`` with the numbers of rows, and epsilon and delta in a private run."""
        from fedtl.api.frames import run_table

        return run_table(self.result)

    @property
    def history(self) -> "DataFrame":
        """Validation metrics: a row per round and silo."""
        from fedtl.api.frames import run_history

        return run_history(self.folder.history())

    def model(self, silo: str) -> TrainedModel:
        """A silo's own model. Raises ConfigError where the run has no such silo."""
        return TrainedModel(self.folder, silo)

    def report(self) -> Path:
        """Write report.html, with its plots inside, and return its path."""
        return write_run_page(self.folder)


@dataclass(frozen=True)
class FinishedComparison:
    """Several methods and seeds on the same silos. The numbers are those of ``comparison.json``. ``values``: as for a run."""

    path: Path
    values: CustomValues = NO_VALUES

    def __repr__(self) -> str:
        methods = ", ".join(self.result.methods)
        return f"FinishedComparison({str(self.path)!r}: {methods}; seeds {', '.join(map(str, self.result.seeds))})"

    def _repr_html_(self) -> str:
        from fedtl.report.gain_plots import benefit_forest

        title = f"{self.result.metric} by method and silo"
        gains = (
            {"Gain over training alone, by silo": benefit_forest(self.result)} if self.result.benefit else {}
        )
        return html_page(title, [self.table, self.verdicts, self.overall], self.path, gains)

    @property
    def folder(self) -> RunFolder:
        return RunFolder.open(self.path, self.values)

    @cached_property
    def result(self) -> Comparison:
        """All numbers. Raises ConfigError where the comparison did not end."""
        return self.folder.comparison()

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment with all its settings."""
        return self.folder.experiment()

    @property
    def metrics(self) -> "DataFrame":
        """A row per method, silo and metric: the mean over seeds and its 95 % interval."""
        from fedtl.api.frames import comparison_metrics

        return comparison_metrics(self.result)

    @property
    def table(self) -> "DataFrame":
        """The main metric: a row per method, a column per silo."""
        from fedtl.api.frames import comparison_table

        return comparison_table(self.result)

    @property
    def verdicts(self) -> "DataFrame":
        """Whether joining helped: a row per silo with the best method, its gain over ``local`` and the verdict."""
        from fedtl.api.frames import comparison_verdicts

        return comparison_verdicts(self.result)

    @property
    def trials(self) -> "DataFrame":
        """The values that were tried on validation rows: a row per trial, with its loss; empty where none were tried."""
        from fedtl.api.frames import comparison_trials

        return comparison_trials(self.result)

    @property
    def overall(self) -> "DataFrame":
        """Each method over all silos: the mean gain over ``local``, at how many silos it is not worse, and the worst silo."""
        from fedtl.api.frames import comparison_overall

        return comparison_overall(self.result)

    def run(self, method: str, seed: int | None = None, fold: int = 0) -> FinishedRun:
        """One of the runs; ``seed`` None: the first. Raises ConfigError where there is no such run."""
        by_method = run_folders(self.experiment, self.folder)
        compare, runs = self.experiment.compare, repeats(self.experiment)
        chosen = Repeat(compare.seeds[0] if seed is None else seed, fold)
        if method not in by_method or chosen not in runs:
            raise ConfigError(
                f"no run of method {method!r} with seed {chosen.seed} and fold {fold}; methods: {', '.join(by_method)}; "
                f"seeds: {compare.seeds}; folds: {compare.folds}"
            )
        value = self.values.methods.get(method.partition(":")[2])
        values = replace(self.values, method=value, methods={})
        return FinishedRun(by_method[method][runs.index(chosen)].path, values)

    def report(self) -> Path:
        """Write report.html, with its plots inside, and return its path."""
        return write_compare_page(self.folder)


def html_page(
    title: str, tables: Sequence["DataFrame"], path: Path, plots: Mapping[str, str] = NO_PLOTS
) -> str:
    """
    What a notebook shows of a result. pandas escapes the names in the tables. ``plots``: SVG by its alternative text; each is an image of its
    own, because ids of two outputs of one notebook may be the same.
    """
    content = "".join(table.to_html() for table in tables)
    content += "".join(_image(name, svg) for name, svg in plots.items())
    return f"<p><b>{escape(title)}</b></p>{content}<p>{escape(str(path))}</p>"


def _image(name: str, svg: str) -> str:
    coded = b64encode(svg.encode()).decode()
    style = "background: #fff; max-width: 100%"
    return f'<p><img alt="{escape(name)}" style="{style}" src="data:image/svg+xml;base64,{coded}"></p>'
