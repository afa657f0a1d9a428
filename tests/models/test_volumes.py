"""convnet on volumes: roles, the cut, norms that private training supports, and sums of clipped gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.dp_norm import FixedNorm, convert_norms, restore_norms
from fedtl.models.norms import adabn_statistics
from fedtl.models.registry import model_spec
from fedtl.models.roles import Role, roles
from fedtl.privacy.per_sample.clipping import by_hooks, choose_gradient_method, clipped
from fedtl.training.nets import in_channels_last
from tests.models.test_dp_norm import shaken
from tests.problems import builtin, expected_sum, flat, one_at_a_time

SHAPE, SMALL = (1, 6, 8, 10), {"widths": (8, 8, 16)}


@pytest.fixture
def net():
    return shaken(model_spec("convnet", SHAPE, 0, settings=SMALL | {"grid": 2}).net(3)).eval()


def volumes(count=5):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_roles_and_features(net):
    assert sum(isinstance(module, nn.BatchNorm3d) for module in net.modules()) == 3
    found = roles(net)
    assert {name for name, role in found.items() if role is Role.HEAD} == {"head.weight", "head.bias"}
    assert sum(role is Role.STATS for role in found.values()) == 6
    assert sum(role is Role.NORM for role in found.values()) == 6
    assert net.head.weight.shape == (3, 16 * 2**3)
    assert net(volumes()).shape == (5, 3)


def test_scores_equal_those_of_each_layer_by_its_definition(net):
    """A voxel of the first convolution and norm, from the sums in their definitions."""
    first, norm = net.body.features[0], net.body.features[1]
    x = volumes(1)
    d, h, w = 2, 3, 4
    expected = (first.weight[:, 0] * x[0, 0, d - 1 : d + 2, h - 1 : h + 2, w - 1 : w + 2]).sum((1, 2, 3))
    expected = (expected - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    assert torch.allclose(norm(first(x))[0, :, d, h, w], expected, atol=1e-5)


def test_private_norms_give_the_same_scores_and_back(net):
    fixed = convert_norms(net).eval()
    assert sum(isinstance(module, FixedNorm) for module in fixed.modules()) == 3
    with torch.no_grad():
        assert torch.allclose(fixed(volumes()), net(volumes()), atol=1e-5)
        assert torch.allclose(restore_norms(fixed).eval()(volumes()), net(volumes()), atol=1e-6)
    one, other = (adabn_statistics(each, [volumes()]) for each in (net, fixed))
    first = net.body.features[0](volumes())
    assert torch.allclose(one["body.features.1.running_mean"], first.mean((0, 2, 3, 4)), atol=1e-5)
    assert torch.allclose(
        one["body.features.1.running_var"], first.transpose(0, 1).flatten(1).var(1), atol=1e-5
    )
    for ordinary, private in zip(one.values(), other.values(), strict=True):
        assert torch.allclose(ordinary, private, atol=1e-5)


@pytest.mark.parametrize("layout", [lambda net: net, in_channels_last])
def test_clipped_sums_equal_autograd_on_one_example_at_a_time(layout):
    net = layout(builtin("convnet", (1, 5, 4, 6), widths=(3, 4, 5)).double())
    x, y = (
        torch.randn(6, 1, 5, 4, 6, generator=torch.Generator().manual_seed(5)).double(),
        torch.arange(6) % 3,
    )
    losses = lambda model, rows: F.cross_entropy(model(x[rows]), y[rows], reduction="none")  # noqa: E731
    each = one_at_a_time(net, losses, 6)
    clip = float(each.norm(dim=1).median())
    assert choose_gradient_method(net, torch.arange(6), losses, clip) is by_hooks
    found = flat(clipped(by_hooks, net, torch.arange(6), losses, clip))
    torch.testing.assert_close(found, expected_sum(each, clip), rtol=1e-8, atol=1e-10)


def test_group_norm_takes_volumes_too():
    net = model_spec("convnet_gn", SHAPE, 0, settings=SMALL).net(2)
    assert net(volumes()).shape == (5, 2)
    assert not [role for role in roles(net).values() if role is Role.STATS]


@pytest.mark.parametrize("name", ["resnet20", "digitmodel", "resnet18", "torchvision/resnet18"])
def test_models_of_images_refuse_volumes(name):
    with pytest.raises(ModelError, match="volumes of 6 x 8 x 10"):
        model_spec(name, SHAPE, 0)


def test_volumes_that_are_too_thin_are_refused():
    with pytest.raises(ModelError, match="3 x 8 x 8"):
        model_spec("convnet", (1, 3, 8, 8), 0)
