"""Which method is best for a silo, and on which rows that may be decided."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.run_folder import RunFolder
from fedtl.results.comparison import ChosenOn
from fedtl.training.metrics import better

Figures = Mapping[str, float]


def chosen_on(experiment: Experiment) -> ChosenOn | None:
    """
    Return what a silo's best method is chosen on: exact metrics of its validation rows; under privacy, the noisy ones that
    it released. None where it released none: a choice on exact ones would reveal something about private rows, and no
    ledger would be charged for it.
    """
    if experiment.privacy is None:
        return ChosenOn.VALIDATION
    return ChosenOn.RELEASED if experiment.metric in experiment.privacy.metrics else None


def best_method(experiment: Experiment, joining: Mapping[str, Sequence[RunFolder]], silo: str) -> str | None:
    """
    Return the method with the best mean over its runs; of several, the one listed first. Where validation rows cannot give
    the main metric (AUC needs both classes), their loss decides. None where no choice is allowed.
    """
    basis = chosen_on(experiment)
    if basis is None:
        return None
    read = _last_released if basis is ChosenOn.RELEASED else _validation
    figures = {label: [read(run, silo) for run in runs] for label, runs in joining.items()}
    for metric in (experiment.metric, "loss"):
        best: tuple[str, float] | None = None
        for label, runs in figures.items():
            if values := [own[metric] for own in runs if metric in own]:
                mean = float(np.mean(values))
                best = (label, mean) if best is None or better(metric, mean, best[1]) else best
        if best:
            return best[0]
    return None


def _last_released(run: RunFolder, silo: str) -> Figures:
    released = [line.silos[silo] for line in run.history() if silo in line.silos]
    return released[-1] if released else {}


def _validation(run: RunFolder, silo: str) -> Figures:
    return run.validation(silo) or {}
