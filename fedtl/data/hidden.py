"""
Labels that an experiment does not use: those of an unlabelled silo, and all but a fraction of a silo's (``data.unlabelled``,
``data.label_fraction``); and rows that have none (``data.missing_labels``).

Labels are removed right after the rows are split, so that nothing after this file can read them. The rows stay, as inputs
without labels. Test labels stay, because they are used for measurement only.
"""

from dataclasses import dataclass, replace

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.data.labels import without_label
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.data.splits import at_random, stratified

MIN_LABELS = 2  # of training rows: normalisation layers need two rows


@dataclass(frozen=True)
class Hidden:
    """Inputs [N, ...] without a label that is used, of training and of validation rows."""

    train: Array
    val: Array


def used_fraction(settings: DataSettings, silo: str) -> float:
    """Return which share of the silo's training and validation labels is used: 1 where ``[data]`` says nothing."""
    if silo in settings.unlabelled:
        return 0.0
    if silo in settings.late:  # data.shots says how many labels it has
        return 1.0
    fraction = settings.label_fraction
    return fraction.get(silo, 1.0) if isinstance(fraction, dict) else fraction


def hides_labels(settings: DataSettings, silo: str) -> bool:
    """Whether some labels of the silo are not used. Its rows are then split without looking at labels."""
    return used_fraction(settings, silo) < 1


def uses_missing(settings: DataSettings, silo: str) -> bool:
    """Whether rows of the silo that have no label are inputs without labels, as well as rows that have one."""
    return settings.missing_labels == "inputs" and used_fraction(settings, silo) > 0


def hide_labels(raw: Raw, settings: DataSettings, silo: str, seed: int) -> tuple[Raw, Hidden | None]:
    """
    Return the split rows with only those training and validation rows whose labels are used, and the inputs of the others;
    None where all rows have a label that is used. Which labels are used depends on ``seed``, ``silo`` and the part alone.
    """
    missing = uses_missing(settings, silo)
    if not (missing or hides_labels(settings, silo)):
        return raw, None
    assert raw.val is not None
    fraction, strata = used_fraction(settings, silo), settings.predicted.has_classes

    def divided(part: Part, name: str, minimum: int) -> tuple[Part, Array]:
        if not fraction:
            return part.take(np.arange(0)), part.x
        kept = np.flatnonzero(~without_label(part.y)) if missing else np.arange(len(part.y))
        if fraction < 1:
            rng = numpy_generator("labels", seed, silo, name)
            kept = kept[labelled_rows(part.y[kept], fraction, strata, minimum, rng)]
        return part.take(kept), np.delete(part.x, kept, axis=0)

    train, hidden = divided(raw.train, "train", MIN_LABELS)
    val, hidden_val = divided(raw.val, "val", 0)
    if fraction == 1 and not (len(hidden) or len(hidden_val)):
        return raw, None
    return replace(raw, train=train, val=val), Hidden(hidden, hidden_val)


def labelled_rows(y: Array, fraction: float, strata: bool, minimum: int, rng: np.random.Generator) -> Array:
    """
    Return the indices, ascending, of the rows that keep their labels: ``fraction`` of them, at least ``minimum``; of classes
    in proportion, and at least one row of each.
    """
    count = min(len(y), max(minimum, round(fraction * len(y))))
    if not strata:
        return at_random(len(y), count, rng)[0]
    drawn = stratified(y, count, rng)[0]
    lacking = np.setdiff1d(y, y[drawn])
    further = [rng.choice(np.flatnonzero(y == label)) for label in lacking]
    return np.sort(np.concatenate([drawn, np.array(further, int)]))
