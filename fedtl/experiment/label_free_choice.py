"""Which method a silo without labels takes: the one whose trainings with other seeds agree most on the silo's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor

from fedtl.data.source import Array
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.scores import source_only
from fedtl.methods.choose import mixed_scores
from fedtl.tasks.classification import CLASSIFICATION
from fedtl.tasks.regression import REGRESSION

FILE = "silos/{silo}/unlabelled.safetensors"  # of the rows whose labels are not used


@dataclass(frozen=True)
class Unlabelled:
    """
    Of one run, the ``scores`` [N, width] that a silo's model gives all its stored rows, by their permanent numbers, and which of them
    (``rows``) are training and validation rows of the run. No label is used.
    """

    scores: Tensor
    rows: Array

    @property
    def own_scores(self) -> Tensor:
        """The scores of the run's own training and validation rows."""
        return self.scores[torch.from_numpy(self.rows)]


def save_unlabelled(folder: RunFolder, silo: str, found: Unlabelled) -> None:
    """Write what the silo's model gives its rows: it stays in the silo."""
    folder.save_tensors(
        FILE.format(silo=silo), {"scores": found.scores, "rows": torch.from_numpy(found.rows)}
    )


def methods_without_labels(
    joining: Mapping[str, Sequence[RunFolder]], silo: str, classes: bool
) -> list[str] | None:
    """
    Return for each run, that is for each seed and fold, the method that a silo without labels takes; None where a run has no
    scores of the silo's rows. ``classes``: whether scores are those of exclusive classes.
    """
    if not all(folder.has(FILE.format(silo=silo)) for runs in joining.values() for folder in runs):
        return None
    found = {label: [_read(folder, silo) for folder in runs] for label, runs in joining.items()}
    count = len(next(iter(found.values())))
    return [
        best_without_labels(found, number)
        if classes
        else nearest_to_mean({label: runs[number].own_scores for label, runs in found.items()})
        for number in range(count)
    ]


def _read(folder: RunFolder, silo: str) -> Unlabelled:
    tensors = folder.tensors(FILE.format(silo=silo))
    return Unlabelled(tensors["scores"], tensors["rows"].numpy())


def best_without_labels(found: Mapping[str, Sequence[Unlabelled]], run: int) -> str:
    """
    Return the method that a silo takes in a ``run`` without any label: the one whose answers agree most with those of its other runs
    (``agreement_of_runs``); of several, the first. ``found``: of all runs, by method.

    With one run nothing agrees: the shared model (``source_only``), if it is compared, and otherwise the method nearest to the mean of
    all.
    """
    agreement = {label: agreement_of_runs(runs, run) for label, runs in found.items()}
    if not any(map(isnan, agreement.values())):
        return max(agreement, key=agreement.__getitem__)
    if source_only(found) in found:
        return source_only(found)
    return nearest_to_mean({label: runs[run].own_scores for label, runs in found.items()})


def agreement_of_runs(runs: Sequence[Unlabelled], run: int) -> float:
    """
    Return the share of the training and validation rows of a ``run`` to which the method's run and another of its runs, with another seed,
    give the same answer, as the mean over all others (Jiang et al., 2022); NaN where there is no other.

    a_i = mean over j != i of |{n in R_i: argmax f_i(n) = argmax f_j(n)}| / |R_i|, with R_i the rows of run i, which it does not test on.
    Where the probabilities of the runs together are calibrated, it equals the accuracy in expectation.
    """
    answers = runs[run].own_scores.argmax(1)
    others = [
        other.scores[torch.from_numpy(runs[run].rows)] for number, other in enumerate(runs) if number != run
    ]
    shares = [float((other.argmax(1) == answers).double().mean()) for other in others]
    return sum(shares) / len(shares) if shares else float("nan")


def nearest_to_mean(scores: Mapping[str, Tensor]) -> str:
    """
    Return the method with the smallest mean squared distance of its outputs ``scores`` [N, width], or of its probabilities, from
    their mean over all methods, in the manner of EnsV (Hu et al., 2024); of several, the first.
    """
    parts = list(scores.values())
    classes = parts[0].shape[1] > 1
    together = mixed_scores(parts, (1 / len(parts),) * len(parts), CLASSIFICATION if classes else REGRESSION)
    if classes:
        parts, together = [one.softmax(1) for one in parts], together.softmax(1)
    distances = [float((one - together).double().square().mean()) for one in parts]
    return list(scores)[int(torch.tensor(distances).argmin())]
