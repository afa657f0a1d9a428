"""Metrics of masks, with a weight on each image. See ``row_metrics``."""

from dataclasses import dataclass

import numpy as np

from fedtl._util.labels import NO_LABEL
from fedtl.tasks.row_metrics import Answers, Floats, ratio


@dataclass(frozen=True)
class PixelCounts:
    """
    What the metrics of masks need of each image. ``both`` and ``either`` [N, classes]: pixels of a class in the mask and the
    prediction, and their sum in the two. ``right`` [N]: pixels with their class; ``known`` [N]: pixels whose class is known.
    """

    both: Floats
    either: Floats
    right: Floats
    known: Floats


def pixel_counts(answers: Answers) -> PixelCounts:
    """Return the counts, which are computed once for each set of answers."""
    kept: PixelCounts | None = answers.kept.get("pixels")
    if kept is None:
        kept = answers.kept["pixels"] = _counted(answers)
    return kept


def _counted(answers: Answers) -> PixelCounts:
    y = answers.y.reshape(len(answers.y), -1)
    chosen = np.where(y == NO_LABEL, NO_LABEL, answers.chosen.reshape(y.shape))
    classes = range(answers.scores.shape[1])
    both = [((y == c) & (chosen == c)).sum(1) for c in classes]
    either = [(y == c).sum(1) + (chosen == c).sum(1) for c in classes]
    known = (y != NO_LABEL).sum(1)
    return PixelCounts(
        np.stack(both, 1).astype(float),
        np.stack(either, 1).astype(float),
        np.sum(both, 0).astype(float),
        known.astype(float),
    )


def dice(answers: Answers, weights: Floats) -> Floats:
    """
    Return the mean over the classes but the first of the mean over images of 2 |A and B| / (|A| + |B|) (Dice, 1945), with the pixels A of
    a class in the mask and B in the prediction. For a class, images in which both are empty are left out; so is a class for which no image
    is left (as in nnU-Net: Isensee et al., 2021).
    """
    counts = pixel_counts(answers)
    there = counts.either[:, 1:] > 0
    each = np.where(there, 2 * counts.both[:, 1:], 0) / np.where(there, counts.either[:, 1:], 1)
    of_classes = np.asarray((weights @ each) / (weights @ there.astype(float)))
    defined = np.isfinite(of_classes)
    present = np.where(defined.any(1), defined.sum(1), np.nan)
    return np.asarray(np.where(defined, of_classes, 0).sum(1) / present)


def pixel_accuracy(answers: Answers, weights: Floats) -> Floats:
    """Return the mean over images of the share of pixels with their class."""
    counts = pixel_counts(answers)
    return ratio(weights, counts.right / counts.known, np.ones(len(counts.known)))
