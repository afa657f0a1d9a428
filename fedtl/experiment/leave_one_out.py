"""
Who helps whom: each silo in turn is left out, one method trains again without it, and every other silo is scored with both
models. It is asked for (``compare.leave_one_out``), because it takes a run for each silo and seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedtl.errors import ConfigError
from fedtl.experiment.columns import Column, Kind, Repeat
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.jobs import Job, do_run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.scores import Reading, read_scores
from fedtl.experiment.summary import YARDSTICKS
from fedtl.experiment.uncertainty import Measurement, mean_of
from fedtl.experiment.verdicts import gain_of, gains_of
from fedtl.results.comparison import WhoHelps

FOLDER = "without"  # of the runs, in the folder of the comparison
WITH, WITHOUT = "with", "without"
Folders = Mapping[str, Sequence[RunFolder]]


def leaving_out(folder: RunFolder) -> Experiment:
    """
    Write into the experiment of a comparison that silos are left out, finished or not, and return it. Raises ConfigError where none
    may be left out.
    """
    settings = folder.experiment()
    compare = settings.compare.model_copy(update={"leave_one_out": True})
    settings = with_changes(settings, compare=compare)
    folder.save_experiment(settings)
    return settings


def asked_column(experiment: Experiment, columns: Sequence[Column]) -> Column:
    """
    Return the column that is trained without each silo: that of ``method.name``, or else the first one in which silos train together.
    Raises ConfigError where there is none.
    """
    joining = [one for one in columns if one.kind is Kind.TRAINED and one.label not in YARDSTICKS]
    if not joining:
        raise ConfigError(
            "compare.leave_one_out: compare.methods has no method in which silos train together; add one, such as fedavg"
        )
    return next((one for one in joining if one.label == experiment.method.name), joining[0])


def without_silo(settings: Experiment, silo: str, silos: Sequence[str]) -> Experiment:
    """
    Return the experiment of one run without this silo, of those that train: nothing else of it changes. Raises ConfigError for
    one silo.
    """
    if len(silos) < 2:
        raise ConfigError(
            f"compare.leave_one_out: only {silos[0]} trains, so no other silo can help; add silos, or remove it"
        )
    data, own = settings.data, {name: one for name, one in settings.silo.items() if name != silo}
    if data.silos:
        changed = {"silos": [name for name in data.silos if name != silo]}
    else:
        changed = {"silos_except": [*data.silos_except, silo]}
    asked = settings.silos_per_round
    return with_changes(
        settings,
        data=data.model_copy(update=changed),
        silo=own,
        minimum_silos=min(settings.minimum_silos, len(silos) - 1),
        silos_per_round=asked if asked == "all" else min(asked, len(silos) - 1),
    )


def leave_out_jobs(
    column: Column, runs: Sequence[tuple[Repeat, Experiment]], silos: Sequence[str], folder: Path
) -> Iterator[Job]:
    """Yield a run without each silo for each of the ``runs`` of the column."""
    for (run, settings), silo in ((one, name) for one in runs for name in silos):
        yield Job(
            do_run,
            without_silo(settings, silo, silos),
            folder / _path(column, run, silo),
            column.at(run),
        )


def run_folders_without(
    column: Column, runs: Sequence[Repeat], silos: Sequence[str], folder: Path
) -> dict[str, list[RunFolder]]:
    """Return the run folders by the silo that was left out, in the order of ``runs``."""
    return {silo: [RunFolder(folder / _path(column, run, silo)) for run in runs] for silo in silos}


def _path(column: Column, run: Repeat, silo: str) -> str:
    return f"{FOLDER}/{silo}-{Path(column.folder(run)).name}"


def who_helps(experiment: Experiment, label: str, full: Sequence[RunFolder], without: Folders) -> WhoHelps:
    """
    Return what each silo that was left out is worth to each other one: the test metric with all silos minus that without it, with
    the same seeds and test rows. ``full``: the runs of the column with all silos.
    """
    differences: dict[tuple[str, str], Measurement] = {}
    margins: dict[tuple[str, str], float] = {}
    for silo, runs in without.items():
        folders = {WITH: full, WITHOUT: runs}
        results = {name: [run.result() for run in own] for name, own in folders.items()}
        metric = experiment.metric
        how = Reading(
            *(experiment.data.predicted, experiment.compare.folds, (metric,), metric),
            *([WITH], WITHOUT, lambda _: None),
        )
        scores = read_scores(folders, results, how)
        for other, difference in scores.over_local[WITH].items():
            differences[silo, other] = difference
            spread = scores.spread[other] if metric == "rmse" else 1.0
            margins[silo, other] = experiment.compare.margin * spread
    gains = gains_of(differences, margins)
    by_silo = {silo: [pair for pair in differences if pair[0] == silo] for silo in sorted(without)}
    return WhoHelps(
        label,
        {silo: {pair[1]: gains[pair] for pair in pairs} for silo, pairs in by_silo.items()},
        {
            silo: gain_of(mean_of([differences[pair] for pair in pairs]), margins[pairs[0]])
            for silo, pairs in by_silo.items()
            if pairs
        },
    )
