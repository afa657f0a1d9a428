"""The steps of plain training are those of ``torch.optim.SGD``, to the bit."""

import pytest
import torch
from torch import nn

from fedtl.training.sgd import Sgd

RATES = 0.3, 0.05


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(4, 3), (4,), (2, 4), (2,)]]


def gradients(step, weights):
    """Of every weight but one, which differs from step to step: a loss may not reach a weight."""
    generator = torch.Generator().manual_seed(100 + step)
    drawn = [torch.randn(weight.shape, generator=generator) for weight in weights]
    return [None if number == step % len(drawn) else one for number, one in enumerate(drawn)]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_steps_are_torchs(momentum, weight_decay):
    ours, theirs = parameters(), parameters()
    stepper = Sgd({RATES[0]: ours[:2], RATES[1]: ours[2:]}, momentum, weight_decay)
    groups = [{"params": theirs[:2], "lr": RATES[0]}, {"params": theirs[2:], "lr": RATES[1]}]
    reference = torch.optim.SGD(groups, lr=1.0, momentum=momentum, weight_decay=weight_decay, foreach=True)
    for step in range(6):
        stepper.zero_grad()
        assert all(weight.grad is None for weight in ours)
        for weights in (ours, theirs):
            for weight, gradient in zip(weights, gradients(step, weights), strict=True):
                weight.grad = None if gradient is None else gradient.clone()
        stepper.step()
        reference.step()
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients_of_an_embedding(momentum):
    ours, theirs = (nn.Embedding.from_pretrained(torch.eye(5), freeze=False, sparse=True) for _ in range(2))
    stepper = Sgd({0.1: [ours.weight]}, momentum, 0.0)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=momentum, foreach=True)
    for rows in ([0, 1], [1, 4], [2, 2]):
        for one, taken in ((ours, stepper), (theirs, reference)):
            taken.zero_grad()
            one(torch.tensor(rows)).square().sum().backward()
            assert one.weight.grad.is_sparse
            taken.step()
        assert torch.equal(ours.weight, theirs.weight)


def test_a_weight_decay_moves_no_weight_without_a_gradient():
    (weight, *_) = parameters()
    before = weight.detach().clone()
    Sgd({0.1: [weight]}, 0.9, 0.5).step()
    assert torch.equal(weight, before)
