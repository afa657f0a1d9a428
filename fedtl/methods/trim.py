"""A loss that wrong labels move less: in each batch, the rows with the largest losses do not count."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedtl.methods.base import Method, Phase
from fedtl.methods.losses import Forward, PerBatch, TaskLoss, Term


@dataclass(frozen=True)
class TrimmedTaskLoss(PerBatch):
    """
    Shen and Sanghavi, 2019: the mean of the task's loss over the (1 - share) n labelled rows of the batch, rounded up, whose loss
    is the smallest.
    """

    share: float
    task: TaskLoss = field(default_factory=TaskLoss)

    def loss(self, out: Forward) -> Tensor:
        losses = self.task.losses(out)[self.task.counts(out)]
        if not len(losses):
            return out.scores.sum() * 0
        kept = max(1, len(losses) - int(self.share * len(losses)))
        return torch.topk(losses, kept, largest=False, sorted=False).values.mean()


def with_trim(method: Method, share: float) -> Method:
    """Return the method with the trimmed loss in place of the task's, in its objective and in the phases' own."""

    def trimmed(terms: tuple[Term, ...]) -> tuple[Term, ...]:
        return tuple(TrimmedTaskLoss(share, term) if isinstance(term, TaskLoss) else term for term in terms)

    def phase(one: Phase) -> Phase:
        return one if one.objective is None else replace(one, objective=trimmed(one.objective))

    return replace(method, objective=trimmed(method.objective), phases=tuple(map(phase, method.phases)))
