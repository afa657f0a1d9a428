"""
Train several methods with several seeds on the same silos, and compare them at every silo.

Runs are independent: each has its own run folder, and one process does it from start to end, the longest first. On a Ray cluster the runs are
done one after another, each on the whole cluster. Where settings are tried (``compare.tune``), all trials come first; each
has a folder of its own too, so an interrupted comparison repeats nothing.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from fedtl._util.records import to_plain
from fedtl.errors import ConfigError
from fedtl.experiment.columns import Column, Kind, Repeat, comparison_columns, repeats, run_folders
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.epochs import effort, epochs_at_silo, unequal_epochs
from fedtl.experiment.few_labels import joined_notes, no_silo_has_labels
from fedtl.experiment.jobs import Job, Watch, Workshop, do_constant, do_run, do_trial, worker_pool
from fedtl.experiment.leave_one_out import (
    asked_column,
    leave_out_jobs,
    run_folders_without,
    who_helps,
    without_silo,
)
from fedtl.experiment.own_models import remove_own_models
from fedtl.experiment.privacy_report import privacy_report
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study, build, served_silos
from fedtl.experiment.summary import LOCAL, summarize_runs
from fedtl.experiment.tuning import choose, edge_warnings, with_values
from fedtl.experiment.yardsticks import second_member, write_ensemble
from fedtl.results.comparison import Comparison, WhoHelps
from fedtl.results.privacy import PrivacyReport
from fedtl.results.tuning import Trial, Tuning
from fedtl.simulation.shared_store import SharedStore, temporary_store

Tunings = Mapping[str, tuple[Tuning, ...]]  # by column, one a trial seed
MEMBER = "second"  # folder of an ensemble's second run

EXACT = (
    "methods",
    "mean",
    "worst",
    "benefit",
    "over_local",
    "warnings",
    "absent",
    "received",
    "refitted",
    "target",
    "late",
    "overall",
    "joining",
    "over_source",
    "label_free",
    "who_helps",
)  # keys of comparison.json that hold metrics on test rows


@dataclass(frozen=True)
class _Plan:
    """
    What a comparison does: its columns, the runs of each, and under which of these settings are tried. ``studies``: of the
    columns that are trained.
    """

    columns: Sequence[Column]
    runs: Sequence[Repeat]
    trial_runs: Sequence[Repeat]
    studies: Mapping[str, Study]

    def steps(self, rounds: int, silos: int, left_out: int = 0) -> int:
        """
        Return how many rounds all jobs do, and how many models the silos finish in all runs. ``silos``: how many models one run
        of each column finishes, all columns together. ``left_out``: how many silos are left out in a run of their own.
        """
        runs = sum(column.kind is not Kind.CONSTANT for column in self.columns) * len(self.runs)
        trials = sum(len(column.trials) for column in self.columns) * len(self.trial_runs)
        without = left_out * (rounds + left_out - 1) * len(self.runs)
        return (runs + trials) * rounds + silos * len(self.runs) + without

    def epochs(self, tunings: Tunings) -> dict[str, int]:
        """Return the epochs that each column trains at a silo; of an ensemble, those of both models."""
        factors = {Kind.TRAINED: 1, Kind.ENSEMBLE: 2, Kind.CONSTANT: 0}
        counts = {
            column.label: (
                factors[column.kind],
                epochs_at_silo(self.settings(column, self.runs[0], tunings)),
            )
            for column in self.columns
        }
        return {label: factor * count for label, (factor, count) in counts.items() if count is not None}

    def effort(self, column: Column, settings: Experiment) -> float:
        """Return about how long a job with these settings takes relative to the others; 0 where nothing is trained."""
        label = LOCAL if column.kind is Kind.ENSEMBLE else column.label
        return 0.0 if column.kind is Kind.CONSTANT else effort(settings, len(self.studies[label].training))

    def settings(self, column: Column, run: Repeat, tunings: Tunings) -> Experiment:
        """Return the experiment of a run, with the values that were chosen for it."""
        label = column.label if column.kind is Kind.TRAINED else LOCAL
        by_run = {Repeat(tuning.seed, tuning.fold): tuning.chosen for tuning in tunings.get(label, ())}
        chosen = by_run.get(run, by_run.get(self.runs[0], {}))
        return with_values(column.at(run), chosen) if chosen else column.at(run)


def compare(
    experiment: Experiment,
    folder: RunFolder,
    workers: int,
    device: str,
    watch: Watch | None = None,
    raws: SharedStore | None = None,
) -> Comparison:
    """
    Do every trial and every run that is not finished, write ``comparison.json``, and return what it holds.

    ``raws``: a store that has the silos' stored rows. Raises what ``run`` raises.
    """
    columns, runs = comparison_columns(experiment), repeats(experiment)
    clock = time.perf_counter()
    most = sum(max(1, len(column.trials)) for column in columns) * len(runs)
    workers = 1 if experiment.engine.name == "ray" else min(workers, most)
    with (
        nullcontext(raws) if raws else temporary_store() as rows,
        worker_pool(workers, experiment.engine.threads) as pool,
    ):
        # Report every mistake before anything is trained.
        studies = [
            build(column.at(runs[0]), rows, rows, device) for column in columns if column.kind is Kind.TRAINED
        ]
        if no_silo_has_labels(experiment, studies[0].training):
            raise ConfigError(
                "no silo has labels, so there is nothing to compare; run one method, and onboard silos with few labels from each run"
            )
        trained = dict(zip((one.label for one in columns if one.kind is Kind.TRAINED), studies, strict=True))
        plan = _Plan(columns, runs, _trial_runs(experiment, studies[0]), trained)
        left_out = _checked_left_out(experiment, plan, studies[0].training, rows)
        steps = plan.steps(experiment.rounds, _finished_models(columns, trained), len(left_out))
        workshop = Workshop(folder.path, device, rows, pool, watch, steps)
        tunings = _tune(plan, workshop)
        _do_runs(plan, workshop, tunings)
        helped = _leave_out(experiment, plan, workshop, tunings, left_out) if left_out else None
    epochs, seconds = plan.epochs(tunings), time.perf_counter() - clock
    comparison = summarize_runs(experiment, run_folders(experiment, folder))
    previous = folder.comparison().seconds if folder.has("comparison.json") else 0.0
    notes = joined_notes(note for study in studies for note in study.notes)
    comparison = replace(
        comparison,
        warnings=(*comparison.warnings, *notes, *unequal_epochs(epochs, LOCAL), *edge_warnings(tunings)),
        epochs=epochs,
        seconds=round(previous if previous else seconds, 1),
        privacy=_privacy(experiment, comparison),
        tuning=tunings,
        who_helps=helped,
    )
    remove_own_models(folder.path)
    folder.write_json("comparison.json", comparison)
    return comparison


def _finished_models(columns: Sequence[Column], studies: Mapping[str, Study]) -> int:
    """Return how many models one run of each column finishes. ``studies``: of the columns that are trained."""
    served = {label: len(served_silos(study)) for label, study in studies.items()}
    ensembles = sum(column.kind is Kind.ENSEMBLE for column in columns)
    return sum(served.values()) + ensembles * served.get(LOCAL, 0)


def _trial_runs(experiment: Experiment, study: Study) -> list[Repeat]:
    """
    Return the runs under which settings are tried: one, where all have the same test rows. Otherwise each run chooses for
    itself, because rows that are tested in one run are trained on in another.
    """
    runs = repeats(experiment)
    own = all(study.silo_data.stored(name).test is not None for name in study.training)
    same = own or (experiment.data.split_seed is not None and experiment.compare.folds == 1)
    return runs[:1] if same else runs


def _tune(plan: _Plan, workshop: Workshop) -> Tunings:
    """Do all trials, and choose for each column and trial seed."""
    tried = [column for column in plan.columns if column.trials]
    paths = {
        (column.label, run): [
            workshop.folder / column.trial_folder(number, run) for number in range(len(column.trials))
        ]
        for column in tried
        for run in plan.trial_runs
    }
    workshop.do(
        [
            Job(do_trial, settings, path, column.at(run), plan.effort(column, settings))
            for run in plan.trial_runs
            for column in tried
            for number, path in enumerate(paths[column.label, run])
            for settings in [column.trial(number, run)]
        ]
    )
    return {
        column.label: tuple(_chosen(column, run, paths[column.label, run]) for run in plan.trial_runs)
        for column in tried
    }


def _chosen(column: Column, run: Repeat, paths: Sequence[Path]) -> Tuning:
    results = [RunFolder(path).trial() for path in paths]
    trials = [
        Trial(values, result.loss, result.failed)
        for values, result in zip(column.trials, results, strict=True)
    ]
    return replace(choose(column.label, run.seed, trials), fold=run.fold)


def _do_runs(plan: _Plan, workshop: Workshop, tunings: Tunings) -> None:
    """Do the runs of each column; then the ensembles, whose first run is that of local."""
    jobs: list[Job] = []
    for run in plan.runs:
        for column in plan.columns:
            settings, path = plan.settings(column, run, tunings), workshop.folder / column.folder(run)
            work = do_constant if column.kind is Kind.CONSTANT else do_run
            if column.kind is Kind.ENSEMBLE:
                settings, path = second_member(settings, [one.seed for one in plan.runs]), path / MEMBER
            jobs.append(Job(work, settings, path, column.at(run), plan.effort(column, settings)))
    workshop.do(jobs)
    local = next((column for column in plan.columns if column.label == LOCAL), None)
    for column in (column for column in plan.columns if column.kind is Kind.ENSEMBLE):
        assert local is not None  # the settings were checked
        for run in plan.runs:
            path = workshop.folder / column.folder(run)
            write_ensemble(
                RunFolder(path), [RunFolder(workshop.folder / local.folder(run)), RunFolder(path / MEMBER)]
            )


def _checked_left_out(
    experiment: Experiment, plan: _Plan, training: Sequence[str], rows: SharedStore
) -> Sequence[str]:
    """Return the silos that are left out in turn, () where this is not asked for. Raises what a run without one of them would raise."""
    if not experiment.compare.leave_one_out:
        return ()
    column = asked_column(experiment, plan.columns)
    for silo in training:
        build(without_silo(column.at(plan.runs[0]), silo, training), rows, rows)
    return training


def _leave_out(
    experiment: Experiment, plan: _Plan, workshop: Workshop, tunings: Tunings, silos: Sequence[str]
) -> WhoHelps:
    """Do the runs without each silo, and return what they show."""
    column, folder = asked_column(experiment, plan.columns), workshop.folder
    runs = [(run, plan.settings(column, run, tunings)) for run in plan.runs]
    workshop.do(list(leave_out_jobs(column, runs, silos, folder)))
    full = [RunFolder(folder / column.folder(run)) for run in plan.runs]
    return who_helps(experiment, column.label, full, run_folders_without(column, plan.runs, silos, folder))


def _privacy(experiment: Experiment, comparison: Comparison) -> PrivacyReport | None:
    """Return what each run of a method that shares guarantees."""
    if experiment.privacy is None:
        return None
    written = to_plain(comparison)
    return replace(
        privacy_report(experiment.privacy),
        epsilon=experiment.privacy.epsilon,
        not_released=tuple(key for key in EXACT if key in written),
    )
