"""Which method a silo takes in each run, and on which rows that may be decided: never on rows that it is then tested on."""

from collections.abc import Mapping, Sequence

from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.label_free_choice import methods_without_labels
from fedtl.experiment.run_folder import RunFolder
from fedtl.results.comparison import ChosenOn
from fedtl.tasks.metrics import better

Figures = Mapping[str, float]


def chosen_on(experiment: Experiment) -> ChosenOn | None:
    """
    Return what a silo's method is chosen on: exact metrics of its validation rows; under privacy, the noisy ones that
    it released. None where it released none: a choice on exact ones would reveal something about private rows, and no
    ledger would be charged for it.
    """
    if experiment.privacy is None:
        return ChosenOn.VALIDATION
    return ChosenOn.RELEASED if experiment.metric in experiment.privacy.metrics else None


def choices(
    experiment: Experiment, joining: Mapping[str, Sequence[RunFolder]], silo: str
) -> list[str] | None:
    """
    Return for each run, that is for each seed and fold, the method that is best on the validation rows of that run; of
    several, the one listed first. Each run decides alone, because rows that one run validates on are test rows of another.
    Where validation rows cannot give the main metric (AUC needs both classes), their loss decides. A silo without labels
    takes what ``label_free_choice`` says. None where no choice is allowed, or where the silo has no validation result.
    """
    if joining and silo in experiment.data.unlabelled:
        return methods_without_labels(joining, silo, experiment.data.predicted.exclusive)
    basis = chosen_on(experiment)
    if basis is None or not joining:
        return None
    read = _last_released if basis is ChosenOn.RELEASED else _validation
    runs = len(next(iter(joining.values())))
    chosen: list[str] = []
    for number in range(runs):
        figures = {label: read(own[number], silo) for label, own in joining.items()}
        label = _best(experiment.metric, figures)
        if label is None:
            return None
        chosen.append(label)
    return chosen


def _best(main: str, figures: Mapping[str, Figures]) -> str | None:
    for metric in (main, "loss"):
        best: tuple[str, float] | None = None
        for label, own in figures.items():
            if metric in own and (best is None or better(metric, own[metric], best[1])):
                best = (label, own[metric])
        if best:
            return best[0]
    return None


def _last_released(run: RunFolder, silo: str) -> Figures:
    released = [line.silos[silo] for line in run.history() if silo in line.silos]
    return released[-1] if released else {}


def _validation(run: RunFolder, silo: str) -> Figures:
    return run.validation(silo) or {}
