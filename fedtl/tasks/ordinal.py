"""Ordered classes, such as grades of a disease."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.tasks.base import LearningTask, TaskSettings, Values, known_numbers
from fedtl.tasks.hazards import hazard_losses, hazard_scores, survivals


@dataclass(frozen=True)
class Ordinal(LearningTask):
    """
    Continuation ratios (McCullagh, 1980; CORN: Shi, Cao and Raschka, 2023): score k of C - 1 is the logit of P(y = k | y >= k), so the
    probabilities P(y > k) never increase with k, whatever the network gives. The predicted level is the median: the number of k
    with P(y > k) > 1/2. Models are mixed by the mean of their probabilities. ``levels``: the classes from low to high.
    """

    levels: tuple[str, ...]

    name = "ordinal"
    about = "ordered classes, data.classes from low to high; continuation ratios"
    metrics = ("kappa", "mae", "accuracy", "loss")
    main = "kappa"
    constant = "the same level"
    needs = "classes"
    script = """\
HEADS = [f"p({label})" for label in ABOUT["outputs"]]

def averaged(out):  # probabilities of more than each level but the last
    return torch.nn.functional.logsigmoid(-out).cumsum(1).exp()

def answer(row):
    shares = [one - next_ for one, next_ in zip([1.0, *row], [*row, 0.0])]
    return [ABOUT["outputs"][sum(one > 0.5 for one in row)], *shares]
"""
    has_classes = True

    @classmethod
    def of(cls, settings: TaskSettings) -> "Ordinal":
        return cls(tuple(settings.classes))

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        return self.levels

    def width(self, classes: Sequence[str]) -> int:
        return max(len(self.levels) - 1, 1)

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        level = known_numbers(y)
        return hazard_losses(scores, level, level < scores.shape[1])

    def averaged(self, scores: Tensor) -> Tensor:
        return survivals(scores)

    def scores_of(self, average: Tensor) -> Tensor:
        return hazard_scores(average)

    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        """Return the scores of the shares (n_c + 1) / (n + C) of the levels."""
        shares = (torch.bincount(y, minlength=width + 1) + 1.0) / (len(y) + width + 1)
        return hazard_scores((1 - shares.cumsum(0))[None, :-1])[0]

    def chosen(self, scores: Values) -> Values:
        above = survivals(torch.from_numpy(scores))
        return (above > 0.5).sum(1).numpy()

    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        above = survivals(scores.double())
        ends = torch.cat([torch.ones_like(above[:, :1]), above, torch.zeros_like(above[:, :1])], 1)
        shares, names = (ends[:, :-1] - ends[:, 1:]).tolist(), [f"p({level})" for level in self.levels]
        level = (above > 0.5).sum(1).tolist()
        return [
            {"prediction": self.levels[number], **dict(zip(names, own, strict=True))}
            for number, own in zip(level, shares, strict=True)
        ]

    def synthetic(self, count: int, classes: Sequence[str], generator: torch.Generator) -> Tensor:
        """Return the levels in turn."""
        return torch.arange(count) % len(self.levels)
