"""Learning curves of a comparison: validation metrics by method and round."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedtl.experiment.config.schema import ENSEMBLE, Experiment
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.side_results import CONSTANT
from fedtl.experiment.summary import POOLED, YARDSTICKS
from fedtl.report.figures import Curve


def learning_curves(experiment: Experiment, folders: Mapping[str, Sequence[RunFolder]]) -> dict[str, Curve]:
    """
    Return per column the mean over silos and seeds of validation accuracy (RMSE in regression), by round. The first point
    is the model before any round, as each silo would have used it; the last is the model that the table scores.

    Under privacy the curves hold only what silos released, which is about the received model: local, probe and pooled
    release nothing, and the metrics of the last point are exact. A local ensemble and constant answers have no rounds.
    """
    private = experiment.privacy is not None
    left_out = YARDSTICKS if private else (ENSEMBLE, CONSTANT)
    shown = {label: runs for label, runs in folders.items() if label not in left_out}
    return {label: _curve(experiment, runs, private) for label, runs in shown.items()}


def _curve(experiment: Experiment, runs: Sequence[RunFolder], private: bool) -> Curve:
    metric = experiment.data.predicted.curve
    values: dict[int, list[float]] = {}
    counts: dict[int, int] = {}
    for run in runs:
        silos = list(run.result().silos)
        for line in run.history():
            here = [figures[metric] for figures in line.silos.values() if metric in figures]
            values.setdefault(line.round, []).extend(here)
            # The pooled run has one silo, with the rows of all.
            count = len(silos) if set(line.silos) == {POOLED} else len(here)
            counts[line.round] = counts.get(line.round, 0) + count
        if not private:
            final = [figures for silo in silos if (figures := run.validation(silo)) is not None]
            here = [figures[metric] for figures in final if metric in figures]
            values.setdefault(experiment.rounds + 1, []).extend(here)
            counts[experiment.rounds + 1] = counts.get(experiment.rounds + 1, 0) + len(here)
    means = [float(np.mean(values[at])) if values[at] else float("nan") for at in sorted(values)]
    return Curve(means, [counts[at] // len(runs) for at in sorted(values)])
