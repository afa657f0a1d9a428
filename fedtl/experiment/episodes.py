"""What each head answered in each episode, and the figures of all episodes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fedtl.experiment.uncertainty import Certainty
from fedtl.results.onboard import Difference, HeadScore, Interval
from fedtl.tasks.classification import correct


@dataclass
class Answers:
    """By head, one entry an episode: accuracy and log loss on test rows. ``held_out``: by episode, then head."""

    accuracy: dict[str, list[float]] = field(default_factory=dict)
    loss: dict[str, list[float]] = field(default_factory=dict)
    held_out: list[Mapping[str, float | None]] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)

    def add(
        self, scores: Mapping[str, Tensor], y: Tensor, held_out: Mapping[str, float | None], chosen: str
    ) -> None:
        """
        Add an episode. ``scores`` [N, classes] by head; ``y`` [N]: -1 for rows of a class that no support row has, which are
        wrong, and not in the loss. ``chosen``: the head that the support chose; "" where it could not.
        """
        known = y >= 0
        for name, one in scores.items():
            self.accuracy.setdefault(name, []).append(float(correct(one, y).double().mean()))
            loss = F.cross_entropy(one[known].double(), y[known]) if bool(known.any()) else one.new_zeros(())
            self.loss.setdefault(name, []).append(float(loss))
        self.held_out.append(held_out)
        self.chosen.append(chosen)

    def chosen_counts(self) -> dict[str, int]:
        """Return how often each head was chosen, the most frequent first."""
        return dict(Counter(name for name in self.chosen if name).most_common())


def scored(answers: Answers, alone: str, reference: str) -> dict[str, HeadScore]:
    """Return the figures of each head; ``alone`` and ``reference``: the heads that the others are compared with."""
    return {name: _score(answers, name, alone, reference) for name in answers.accuracy}


def _score(answers: Answers, name: str, alone: str, reference: str) -> HeadScore:
    values = answers.accuracy[name]
    held_out = [one for by_head in answers.held_out if (one := by_head.get(name)) is not None]
    return HeadScore(
        mean=float(np.mean(values)),
        ci95=interval(values),
        episodes=tuple(values),
        loss=float(np.mean(answers.loss[name])),
        held_out=float(np.mean(held_out)) if held_out else None,
        over_alone=None if name == alone else _difference(values, answers.accuracy.get(alone, [])),
        over_prototype=None if name == reference else _difference(values, answers.accuracy[reference]),
    )


def _difference(values: Sequence[float], others: Sequence[float]) -> Difference | None:
    """Return the mean difference over the episodes that both have, which are the first ones."""
    gains = [one - other for one, other in zip(values, others, strict=False)]
    return Difference(float(np.mean(gains)), interval(gains), len(gains)) if gains else None


def interval(values: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of Student's t of the mean over episodes; None for fewer than three, from which it would say nothing."""
    count = len(values)
    if count < 3:
        return None
    return Certainty(float(np.mean(values)), float(np.std(values, ddof=1)) / count**0.5, count - 1).interval()
