"""Which method a silo without labels takes: the one whose answers divide the silo's rows most as their features do."""

from collections.abc import Mapping, Sequence
from math import isnan

import torch
from torch import Tensor

from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.scores import SOURCE_ONLY
from fedtl.methods.choose import mixed_scores
from fedtl.tasks.classification import CLASSIFICATION
from fedtl.tasks.regression import REGRESSION
from fedtl.training.finish import Unlabelled

ENOUGH = 0.5  # of agreement of the shared model with clusters, to trust what a method makes of them
FILE = "silos/{silo}/unlabelled.safetensors"  # of the rows whose labels are not used


def save_unlabelled(folder: RunFolder, silo: str, found: Unlabelled) -> None:
    """Write what the silo's model gives for its rows without labels: the scores stay in the silo, the agreement is one number."""
    agreement = torch.tensor(found.cluster_agreement, dtype=torch.float64)
    folder.save_tensors(FILE.format(silo=silo), {"scores": found.scores, "cluster_agreement": agreement})


def methods_without_labels(joining: Mapping[str, Sequence[RunFolder]], silo: str) -> list[str] | None:
    """
    Return for each run, that is for each seed and fold, the method that a silo without labels takes; None where a run has no
    scores of the silo's rows.
    """
    runs, chosen = len(next(iter(joining.values()))), list[str]()
    for number in range(runs):
        folders = {label: own[number] for label, own in joining.items()}
        if not all(folder.has(FILE.format(silo=silo)) for folder in folders.values()):
            return None
        found = {label: folder.tensors(FILE.format(silo=silo)) for label, folder in folders.items()}
        chosen.append(
            best_without_labels(
                {
                    label: Unlabelled(one["scores"], float(one["cluster_agreement"]))
                    for label, one in found.items()
                }
            )
        )
    return chosen


def best_without_labels(found: Mapping[str, Unlabelled]) -> str:
    """
    Return the method that a silo takes without any label; of several, the first.

    Of classes: the one whose answers agree most with clusters of its features (``cluster_agreement``), if those of the shared model
    (``SOURCE_ONLY``) already agree with clusters of its own by ``ENOUGH``, and otherwise the shared model. A method can make features
    fall into clusters and give each the wrong name, which the agreement does not show: the names come from the shared model, and
    are right where its answers follow the clusters. Of values, without the shared model, and with fewer rows than classes: the
    method nearest to the mean of all (``nearest_to_mean``).
    """
    agreement = {label: one.cluster_agreement for label, one in found.items()}
    if isnan(agreement.get(SOURCE_ONLY, float("nan"))):
        return nearest_to_mean({label: one.scores for label, one in found.items()})
    if agreement[SOURCE_ONLY] < ENOUGH:
        return SOURCE_ONLY
    return max(agreement, key=lambda label: -1.0 if isnan(agreement[label]) else agreement[label])


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
