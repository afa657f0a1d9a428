"""A wider net gives the same outputs as the narrow one, in evaluation and in training mode."""

import pytest
import torch

from fedtl.errors import ModelError
from fedtl.models.registry import model_spec
from fedtl.models.widen import widened

CASES = {
    "mlp": ((7,), {"width": 6, "layers": 3}, {"width": 17, "layers": 3}),
    "mlp of images": ((2, 4, 4), {"width": 6}, {"width": 9}),
    "convnet": ((2, 8, 8), {"widths": (3, 4, 5)}, {"widths": (3, 9, 13)}),
    "convnet on a grid": ((1, 8, 8), {"widths": (3, 4, 5), "grid": 2}, {"widths": (7, 4, 11), "grid": 2}),
}


def nets(case):
    shape, small, large = CASES[case]
    made = []
    for settings in (small, large):
        net = model_spec(case.split()[0], shape, 0, settings=settings).net(3)
        made.append(net)
    generator = torch.Generator().manual_seed(3)
    for name, tensor in made[0].state_dict().items():  # trained weights and statistics
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(values + 0.5 if name.endswith("var") else values - 0.5)
    return *made, torch.randn(9, *shape, generator=generator)


@pytest.mark.parametrize("case", CASES)
def test_the_outputs_are_the_same(case):
    narrow, wide, x = nets(case)
    wide.load_state_dict(widened(narrow, wide, narrow.state_dict(), 0))
    with torch.no_grad():
        for mode in (False, True):
            torch.testing.assert_close(wide.train(mode)(x), narrow.train(mode)(x), atol=1e-5, rtol=1e-5)


def test_copies_become_different_in_training():
    narrow, wide, x = nets("mlp")
    wide.load_state_dict(widened(narrow, wide, narrow.state_dict(), 0))
    wide(x).pow(2).sum().backward()
    first = wide.body.features[1].weight
    _, same = torch.unique(first.detach(), dim=0, return_inverse=True)
    copies = (same == same[-1]).nonzero()[:, 0]
    assert len(copies) > 1
    gradients = first.grad[copies]
    assert not torch.allclose(gradients[0], gradients[1])


def test_tensors_that_did_not_leave_are_left_out():
    narrow, wide, _ = nets("convnet")
    shared = {
        name: one for name, one in narrow.state_dict().items() if "running" not in name and "head" not in name
    }
    grown = widened(narrow, wide, shared, 0)
    assert grown.keys() == shared.keys()
    assert grown["body.features.0.weight"].shape == (3, 2, 3, 3)
    assert grown["body.features.4.weight"].shape == (9, 3, 3, 3)


def test_what_is_refused():
    narrow, wide, _ = nets("mlp")
    with pytest.raises(ModelError, match="only be made wider"):
        widened(wide, narrow, wide.state_dict(), 0)
    groups = [model_spec("convnet_gn", (1, 8, 8), 0, settings={"widths": (8, 8, n)}).net(3) for n in (8, 16)]
    with pytest.raises(ModelError, match="GroupNorm"):
        widened(*groups, groups[0].state_dict(), 0)
    blocks = model_spec("resnet20", (1, 8, 8), 0).net(3)
    with pytest.raises(ModelError, match="made wider"):
        widened(blocks, blocks, blocks.state_dict(), 0)
