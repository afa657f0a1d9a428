"""Which method a silo without labels takes: the one whose trainings with other seeds agree most on the silo's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
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
    """The ``scores`` [N, width] of a silo's model for training and validation rows without labels, and the rows' permanent numbers [N]."""

    scores: Tensor
    rows: Array


def save_unlabelled(folder: RunFolder, silo: str, found: Unlabelled) -> None:
    """Write what the silo's model gives for its rows without labels: it stays in the silo."""
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
        else nearest_to_mean({label: runs[number].scores for label, runs in found.items()})
        for number in range(count)
    ]


def _read(folder: RunFolder, silo: str) -> Unlabelled:
    tensors = folder.tensors(FILE.format(silo=silo))
    return Unlabelled(tensors["scores"], tensors["rows"].numpy())


def best_without_labels(found: Mapping[str, Sequence[Unlabelled]], run: int) -> str:
    """
    Return the method that a silo takes in a ``run`` without any label: the one whose answers agree most with those of its other runs
    (``agreement_of_runs``); of several, the first. ``found``: of all runs, by method.

    Where no other run has a row in common, as with one seed, nothing tells the methods apart: the shared model (``source_only``), if it
    is compared, and otherwise the method nearest to the mean of all.
    """
    agreement = {label: agreement_of_runs(runs, run) for label, runs in found.items()}
    if not any(map(isnan, agreement.values())):
        return max(agreement, key=agreement.__getitem__)
    if source_only(found) in found:
        return source_only(found)
    return nearest_to_mean({label: runs[run].scores for label, runs in found.items()})


def agreement_of_runs(runs: Sequence[Unlabelled], run: int) -> float:
    """
    Return the share of rows to which a method's ``run`` and another of its runs, with another seed, give the same answer, as the mean
    over all others (Jiang et al., 2022); NaN where no other has a row in common.

    a_i = mean over j of |{n in R_i and R_j: argmax f_i(n) = argmax f_j(n)}| / |R_i and R_j|, with R_i the rows without labels of run i.
    Where the probabilities of the runs together are calibrated, it equals the accuracy in expectation. Only rows that run i does not
    test on count.
    """
    shares = list[float]()
    for number, other in enumerate(runs):
        _, mine, theirs = np.intersect1d(runs[run].rows, other.rows, return_indices=True)
        if number != run and len(mine):
            same = runs[run].scores.argmax(1)[mine] == other.scores.argmax(1)[theirs]
            shares.append(float(same.double().mean()))
    return float(np.mean(shares)) if shares else float("nan")


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
