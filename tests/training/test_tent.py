"""Test-time adaptation against numpy: entropy, its gradient by finite differences, and the first step of Adam."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from fedtl.errors import ConfigError
from fedtl.training import tent
from fedtl.training.tent import tent_scores
from tests.methods.test_adaptation import finite_differences

CPU = torch.device("cpu")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3))


def numpy_scores(model, x, scale, shift):
    """The net on one batch, normalised with the batch's own mean and biased variance."""
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    z = x @ weights["0.weight"].T + weights["0.bias"]
    z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) * scale + shift
    return z.clip(0) @ weights["4.weight"].T + weights["4.bias"]


def test_a_batch_is_scored_and_then_moves_scale_and_shift(monkeypatch):
    monkeypatch.setattr(tent, "BATCH", 5)
    monkeypatch.setattr(tent, "LR", 0.1)
    model, x = net(), torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = tent_scores(model, x, CPU).numpy()
    first, second = x.double().numpy()[:5], x.double().numpy()[5:]
    affine = np.array([np.ones(4), np.zeros(4)])
    np.testing.assert_allclose(scores[:5], numpy_scores(model, first, *affine), atol=1e-5)

    def mean_entropy(values):
        return entropy(softmax(numpy_scores(model, first, *values), 1), axis=1).mean()

    slopes = finite_differences(mean_entropy, affine)
    moved = affine - 0.1 * slopes / (np.abs(slopes) + 1e-8)  # Adam's first step, after the bias correction
    np.testing.assert_allclose(scores[5:], numpy_scores(model, second, *moved), atol=1e-4)
    assert np.abs(scores[5:] - numpy_scores(model, second, *affine)).max() > 1e-2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_adapt_is_refused():
    with pytest.raises(ConfigError, match="1 row"):
        tent_scores(net(), torch.zeros(1, 3), CPU)
    with pytest.raises(ConfigError, match="no normalisation layer"):
        tent_scores(nn.Linear(3, 2), torch.zeros(4, 3), CPU)
