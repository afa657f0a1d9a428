"""The trimmed loss against numpy, and where it takes the place of the task's."""

import numpy as np
import pytest
import torch

from fedtl.methods.ditto import ditto
from fedtl.methods.losses import Batch, Computed, Forward, Pass, TaskLoss
from fedtl.methods.trim import TrimmedTaskLoss, with_trim


def forward(scores, y):
    scores = torch.tensor(scores)
    batch = Batch(torch.zeros(len(y), 1), torch.tensor(y), torch.zeros(len(y)))
    return Forward(batch, Computed(Pass(scores, scores)))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 0.99])
def test_it_is_the_mean_of_the_smallest_losses_of_labelled_rows(share):
    scores = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    y = [0, 1, 2, 0, 1, 2, 0, 1, -1]  # the last row has no label
    losses = sorted(
        float(np.log(np.exp(row).sum()) - row[label])
        for row, label in zip(scores, y, strict=True)
        if label >= 0
    )
    kept = losses[: max(1, 8 - int(share * 8))]
    assert float(TrimmedTaskLoss(share).loss(forward(scores, y))) == pytest.approx(np.mean(kept), rel=1e-5)


def test_without_a_label_it_is_zero():
    assert float(TrimmedTaskLoss(0.5).loss(forward([[1.0, 2.0]], [-1]))) == 0.0


def test_every_loss_of_the_task_is_trimmed_those_of_phases_too():
    trimmed = with_trim(ditto(), 0.2)
    assert [type(term) for term in trimmed.objective] == [TrimmedTaskLoss]
    assert not any(isinstance(term, TaskLoss) for term in trimmed.every_term)
    assert len(trimmed.every_term) == len(ditto().every_term)
