"""Wrong labels for an experiment: in a simulation, a share of a silo's labels is replaced by another class (``data.wrong_labels``)."""

from dataclasses import replace

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.data.labels import without_label
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError


def with_wrong_labels(raw: Raw, settings: DataSettings, silo: str, seed: int) -> Raw:
    """
    Return the split rows in which a share of the training and of the validation labels is wrong: each of them is another of
    the silo's classes, all equally likely. A row without a label stays without one. Test labels stay right. Which labels are wrong depends on ``seed``, ``silo`` and
    the part alone. Raises DataError where the silo has one class.
    """
    share = settings.wrong_labels.get(silo, 0.0)
    if not share:
        return raw
    assert raw.val is not None
    classes = np.unique(raw.train.y[~without_label(raw.train.y)])
    if len(classes) < 2:
        have = (
            f"all labelled training rows have the label {classes[0]}"
            if len(classes)
            else "no training row has a label"
        )
        raise DataError(f"silo {silo}: {have}, so none can be another; remove {silo} from data.wrong_labels")

    def part(rows: Part, name: str) -> Part:
        rng = numpy_generator("wrong labels", seed, silo, name)
        y, known = rows.y.copy(), ~without_label(rows.y)
        y[known] = replaced(y[known], classes, share, rng)
        return replace(rows, y=y)

    return replace(raw, train=part(raw.train, "train"), val=part(raw.val, "val"))


def replaced(y: Array, classes: Array, share: float, rng: np.random.Generator) -> Array:
    """Return the labels [N], of which ``share`` are another one of the sorted ``classes``."""
    wrong = rng.choice(len(y), round(share * len(y)), replace=False)
    steps = rng.integers(1, len(classes), len(wrong))
    changed = y.copy()
    changed[wrong] = classes[(np.searchsorted(classes, y[wrong]) + steps) % len(classes)]
    return changed
