"""Random filters of images against scipy's correlation, and the loss of randconv against numpy."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from scipy.special import log_softmax
from torch import nn

from fedtl.errors import ConfigError
from fedtl.methods.losses import Batch, Forward, Pass, mean_loss
from fedtl.methods.randconv import SIZES, RandomConvolution, filtered
from fedtl.methods.registry import METHODS


def same_draws(x):
    """Return the filters [B, C, C, k, k] and the shares [B], drawn as ``filtered`` draws them."""
    rows, channels = x.shape[:2]
    size = SIZES[int(torch.randint(len(SIZES), ()))]
    weights = torch.randn(rows * channels, channels, size, size) / np.sqrt(channels * size**2)
    return weights.view(rows, channels, channels, size, size).numpy(), torch.rand(
        rows, 1, 1, 1
    ).flatten().numpy()


@pytest.mark.parametrize("seed", range(8))
def test_each_image_is_mixed_with_what_its_own_filter_gives(seed):
    x = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    found = filtered(x)
    torch.manual_seed(seed)
    weights, shares = same_draws(x)
    for row in range(3):
        for channel in range(2):
            image = sum(
                correlate2d(x[row, own].numpy(), weights[row, channel, own], mode="same") for own in range(2)
            )
            expected = shares[row] * x[row, channel].numpy() + (1 - shares[row]) * image
            np.testing.assert_allclose(found[row, channel], expected, atol=1e-5)


def test_filters_keep_the_variance_of_white_noise():
    torch.manual_seed(0)
    x = torch.randn(4000, 3, 15, 15)
    inner = filtered(x)[..., 4:-4, 4:-4]  # where no filter reaches beyond the image
    # E[a^2] + E[(1 - a)^2] = 2/3, with a from U(0, 1); the mixed term has the mean 0.
    assert inner.square().mean().item() == pytest.approx(2 / 3, abs=0.02)


class Means:
    """A model whose scores are the means of the channels."""

    aux = {}

    def run(self, x):
        return Pass(x.flatten(1), x.mean((2, 3)))


def test_the_loss_is_the_cross_entropy_of_changed_images_with_a_label():
    x, y = torch.randn(5, 3, 6, 6), torch.tensor([0, -1, 2, 1, -1])
    torch.manual_seed(1)
    found = mean_loss(RandomConvolution(0.7), Forward(Batch(x, y, torch.zeros(5)), Means()))
    torch.manual_seed(1)
    logs = log_softmax(filtered(x).mean((2, 3)).double().numpy(), axis=1)
    assert found.item() == pytest.approx(-0.7 * np.mean([logs[0, 0], logs[2, 2], logs[3, 1]]), rel=1e-5)


def test_a_share_of_the_images_stays_as_it_is():
    x, y, keep = torch.randn(400, 3, 6, 6), torch.randint(3, (400,)), 0.3
    torch.manual_seed(1)
    kept = torch.rand(400, 1, 1, 1) < keep
    mixed = torch.where(kept, x, filtered(x))
    logs = log_softmax(mixed.mean((2, 3)).double().numpy(), axis=1)
    torch.manual_seed(1)
    found = mean_loss(RandomConvolution(keep=keep), Forward(Batch(x, y, torch.zeros(400)), Means()))
    assert found.item() == pytest.approx(-np.mean(logs[np.arange(400), y.numpy()]), rel=1e-5)
    assert kept.double().mean().item() == pytest.approx(keep, abs=0.08)


def test_the_method_makes_one_pass_a_step_on_changed_images_in_place_of_the_silos():
    passes = []

    class Counted(Means):
        def run(self, x):
            passes.append(x)
            return super().run(x)

    x = torch.randn(64, 3, 6, 6)
    out = Forward(Batch(x, torch.zeros(64, dtype=torch.long), torch.zeros(64)), Counted())
    (phase,) = METHODS["randconv"]().phases
    sum(mean_loss(term, out) for term in phase.objective)
    (seen,) = passes
    same = (seen == x).flatten(1).all(1)
    assert 16 < same.sum() < 48  # half of them


def test_rows_that_are_no_images_are_refused_with_their_shape():
    assert RandomConvolution().modules(4, (3, 8, 8)) == {}
    with pytest.raises(ConfigError, match=r"one input has shape \(13,\)"):
        RandomConvolution().modules(4, (13,))


def test_convolution_layers_in_the_model_get_gradients_from_changed_images():
    net = nn.Conv2d(3, 3, 3)

    class Small(Means):
        def run(self, x):
            return Pass(x.flatten(1), net(x).mean((2, 3)))

    batch = Batch(torch.randn(4, 3, 6, 6), torch.tensor([0, 1, 2, 0]), torch.zeros(4))
    mean_loss(RandomConvolution(), Forward(batch, Small())).backward()
    assert net.weight.grad.abs().sum() > 0
