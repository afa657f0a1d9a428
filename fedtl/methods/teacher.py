"""Distillation: a student is trained to give what a teacher gives, rather than labels."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fedtl._util.settings import Positive, Weight
from fedtl.methods.losses import Forward, PerExample
from fedtl.methods.sets import SUMMARY, as_part
from fedtl.models.state import State


def distillation_losses(scores: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """
    Return the loss of each row [B] (Hinton et al., 2014). ``scores`` and ``teacher`` [B, classes]: scores before the softmax, or
    logarithms of probabilities; of one column in regression: values.

    With classes T^2 KL(softmax(teacher / T) || softmax(scores / T)), whose gradient does not shrink with the temperature T; in
    regression half the squared difference.
    """
    if scores.shape[1] == 1:
        return 0.5 * (scores - teacher)[:, 0].pow(2)
    wanted, given = (teacher / temperature).log_softmax(1), (scores / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)


TEACHER = "teacher"  # a teacher's scores on a silo's training rows, by this name among the summaries


def taught_by(scores: Tensor) -> State:
    """Return what is added to a state, so that the term ``FollowTeacher(TEACHER)`` has scores [N, width] of a teacher."""
    return as_part(SUMMARY, {TEACHER: scores})


@dataclass(frozen=True)
class FollowTeacher(PerExample):
    """
    ``weight`` times ``distillation_losses`` towards the rows of the summary ``teacher``, one for each row that batches are drawn from. A row of
    zeros says nothing: nothing was received yet. Rows of a second domain have no teacher.
    """

    teacher: str
    temperature: Positive = 1.0
    weight: Weight = 1.0

    def losses(self, out: Forward) -> Tensor:
        return self.weight * distillation_losses(out.scores, self._of(out), self.temperature)

    def counts(self, out: Forward) -> Tensor:
        assert out.batch.rows is not None
        return (out.batch.rows >= 0) & (self._of(out) != 0).any(1)

    def _of(self, out: Forward) -> Tensor:
        assert out.batch.rows is not None
        return out.summary(self.teacher)[out.batch.rows.clamp_min(0)]
