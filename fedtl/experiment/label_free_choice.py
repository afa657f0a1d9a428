"""Which method a silo without labels takes: the one whose answers to its own rows agree most with those of all methods together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.choose import mixed_scores
from fedtl.tasks.classification import CLASSIFICATION
from fedtl.tasks.regression import REGRESSION

FILE = "silos/{silo}/unlabelled.safetensors"  # the scores of the rows whose labels are not used


def agreeing_methods(joining: Mapping[str, Sequence[RunFolder]], silo: str) -> list[str] | None:
    """
    Return for each run, that is for each seed and fold, the method that a silo without labels takes; None where a run has no
    scores of the silo's rows.
    """
    runs, chosen = len(next(iter(joining.values()))), list[str]()
    for number in range(runs):
        folders = {label: own[number] for label, own in joining.items()}
        if not all(folder.has(FILE.format(silo=silo)) for folder in folders.values()):
            return None
        scores = {
            label: folder.tensors(FILE.format(silo=silo))["scores"] for label, folder in folders.items()
        }
        chosen.append(most_agreeing(scores))
    return chosen


def most_agreeing(scores: Mapping[str, Tensor]) -> str:
    """
    Return the method that agrees most with the ensemble of all (EnsV; Hu et al., 2024); of several, the first.

    ``scores`` [N, width] of each method on the same rows. With p_m the probabilities of method m, the ensemble answers
    argmax_c sum_m p_m[c], and a method agrees at the share of rows where it answers the same. With one output, the value
    of a regression, it agrees the more, the lower its mean squared distance from the mean of all values. No label is used.
    """
    parts = list(scores.values())
    classes = parts[0].shape[1] > 1
    together = mixed_scores(parts, (1 / len(parts),) * len(parts), CLASSIFICATION if classes else REGRESSION)
    if classes:
        agreement = [float((one.argmax(1) == together.argmax(1)).double().mean()) for one in parts]
    else:
        agreement = [-float((one - together).double().pow(2).mean()) for one in parts]
    return list(scores)[int(torch.tensor(agreement).argmax())]
