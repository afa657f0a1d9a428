"""Several labels of one row, of which each can be there or not, such as findings in an X-ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedtl.tasks.base import LearningTask, TaskSettings, Values


@dataclass(frozen=True)
class MultiLabel(LearningTask):
    """
    A logistic regression for each label: scores [N, labels] are logits, and the loss of a row is the mean binary cross-entropy over
    the labels that it has. A label that is not known is NaN, and counts for nothing. Models are mixed by the mean of their
    probabilities. ``labels``: the columns that hold them, 1 or 0.
    """

    labels: tuple[str, ...]

    name = "multilabel"
    about = "several labels of 0 and 1, in the columns data.classes; binary cross-entropy"
    metrics = ("macro_auc", "macro_f1", "loss")
    main = "macro_auc"
    constant = "the share of each label"
    script = """\
HEADS = [f"p({label})" for label in ABOUT["outputs"]]

def averaged(out):
    return out.sigmoid()

def answer(row):
    return [";".join(label for label, p in zip(ABOUT["outputs"], row) if p > 0.5), *row]
"""
    needs = "0 or 1 (empty: not known)"

    @classmethod
    def of(cls, settings: TaskSettings) -> "MultiLabel":
        return cls(tuple(settings.classes))

    def columns(self, settings: TaskSettings) -> tuple[str, ...]:
        return self.labels

    def label_shape(self, settings: TaskSettings) -> tuple[int, ...]:
        return (len(self.labels),)

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        return self.labels

    def width(self, classes: Sequence[str]) -> int:
        return max(len(self.labels), 1)

    def valid(self, y: Values) -> NDArray[np.bool_]:
        return np.asarray(((y == 0) | (y == 1) | np.isnan(y)).all(1) & ~np.isnan(y).all(1))

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        known = ~y.isnan()
        each = F.binary_cross_entropy_with_logits(scores, y.nan_to_num().to(scores), reduction="none")
        return (each * known).sum(1) / known.sum(1).clamp_min(1)

    def averaged(self, scores: Tensor) -> Tensor:
        return scores.sigmoid()

    def scores_of(self, average: Tensor) -> Tensor:
        return average.logit(torch.finfo(average.dtype).eps)

    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        """Return the logit of (positives + 1) / (known + 2) for each label."""
        shares = (y.nansum(0) + 1) / ((~y.isnan()).sum(0) + 2)
        return shares.logit()

    def why_undefined(self, metric: str, scores: Tensor, y: Tensor) -> str:
        return f"no label is both 1 and 0 in the {len(y)} rows"

    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        names = [f"p({label})" for label in self.labels]
        return [
            {
                "prediction": ";".join(one for one, p in zip(self.labels, own, strict=True) if p > 0.5),
                **dict(zip(names, own, strict=True)),
            }
            for own in scores.sigmoid().tolist()
        ]

    def synthetic(self, count: int, classes: Sequence[str], generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, (count, len(self.labels)), generator=generator).float()
