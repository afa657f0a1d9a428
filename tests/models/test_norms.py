"""Which modules are normalisation layers; AdaBN against numpy and against torch's running statistics."""

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.models.norms import adabn_statistics, batch_norms, is_norm


def numpy_statistics(batches):
    """Mean and unbiased variance of a channel over every value of every batch, in one pass over all of it."""
    columns = []
    for batch in batches:
        x = batch.double().numpy()
        columns.append(np.moveaxis(x, 1, 0).reshape(x.shape[1], -1))
    values = np.concatenate(columns, axis=1)
    return values.mean(axis=1), values.var(axis=1, ddof=1)


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("sizes", [(7,), (8, 3), (16, 5, 9, 2)])
@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm1d(3), (3,)), (nn.BatchNorm2d(3), (3, 4, 5))])
def test_one_norm_against_numpy(norm, shape, sizes):
    generator = torch.Generator().manual_seed(len(sizes))
    scale = torch.tensor([0.3, 1.0, 7.0]).reshape(3, *[1] * (len(shape) - 1))
    batches = [
        torch.randn(n, *shape, generator=generator) * scale + torch.tensor(index * 2.0)
        for index, n in enumerate(sizes)
    ]
    found = adabn_statistics(nn.Sequential(norm), batches)
    mean, variance = numpy_statistics(batches)
    assert set(found) == {"0.running_mean", "0.running_var"}
    np.testing.assert_allclose(found["0.running_mean"], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["0.running_var"], variance, rtol=1e-5)


def test_the_variance_is_precise_for_values_far_from_zero():
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) + 1000
    found = adabn_statistics(nn.Sequential(nn.BatchNorm1d(2)), [x[:40], x[40:]])
    np.testing.assert_allclose(found["0.running_var"], numpy_statistics([x])[1], rtol=1e-3)


def deep():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(5 * 16, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2)),
    )


def test_on_one_batch_it_equals_torchs_statistics_with_momentum_one():
    x = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 + 1
    found = adabn_statistics(deep(), [x])
    reference = deep().train()
    for module in reference.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        reference(x)
    wanted = {name: value for name, value in reference.state_dict().items() if "running_" in name}
    assert found.keys() == wanted.keys()
    assert len(found) == 6
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-6), name


def test_each_layer_normalises_with_the_statistics_of_the_current_batch():
    """Two batches: layer by layer in numpy, each layer normalising with the statistics of its batch."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(), nn.BatchNorm1d(2))
    generator = torch.Generator().manual_seed(5)
    batches = [torch.randn(6, 2, generator=generator) * 3, torch.randn(11, 2, generator=generator) + 4]
    inside = []
    for batch in batches:
        x = batch.double().numpy()
        inside.append(torch.from_numpy(np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0)))
    found = adabn_statistics(model, batches)
    for path, seen in (("0", batches), ("2", inside)):
        mean, variance = numpy_statistics(seen)
        np.testing.assert_allclose(found[f"{path}.running_mean"], mean, atol=1e-5)
        np.testing.assert_allclose(found[f"{path}.running_var"], variance, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_not_changed(training):
    model = deep().train(training)
    model[4].train(not training)  # one module in another mode than the others
    model(torch.randn(4, 3, 8, 8)) if training else None
    before, flags = bits(model), [module.training for module in model.modules()]
    adabn_statistics(model, [torch.randn(5, 3, 8, 8), torch.randn(3, 3, 8, 8)])
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())


def test_the_model_is_not_changed_if_a_batch_fails():
    model = deep().train()
    before, flags = bits(model), [module.training for module in model.modules()]

    def batches():
        yield torch.randn(5, 3, 8, 8)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk"):
        adabn_statistics(model, batches())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_dropout_is_off():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    x = torch.randn(30, 4)
    mean, _ = numpy_statistics([x])
    np.testing.assert_allclose(adabn_statistics(model, [x])["1.running_mean"], mean, atol=1e-6)


def test_a_model_without_running_statistics_has_nothing_to_adapt():
    assert adabn_statistics(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), [torch.randn(3, 4)]) == {}
    assert (
        adabn_statistics(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), [torch.randn(3, 4)])
        == {}
    )


def test_the_statistics_fit_into_the_model():
    model = deep().eval()
    x = torch.randn(200, 3, 8, 8) * 3
    model.load_state_dict(adabn_statistics(model, [x]), strict=False)
    with torch.no_grad():
        normed = model[1](model[0](x))
    assert torch.allclose(normed.mean((0, 2, 3)), torch.zeros(6), atol=1e-3)
    assert torch.allclose(normed.var((0, 2, 3)), torch.ones(6), atol=1e-2)


class MyNorm(nn.BatchNorm2d):
    """A subclass of a torch norm."""


class Frozen(nn.Module):
    """Owns running statistics and is not a torch norm, like FrozenBatchNorm2d of torchvision."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(2))
        self.register_buffer("running_var", torch.ones(2))


NORMS = [
    *(nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.InstanceNorm2d(2)),
    *(nn.InstanceNorm2d(2, affine=True, track_running_stats=True), nn.GroupNorm(1, 2), nn.LayerNorm(2)),
    *(nn.RMSNorm(2), MyNorm(2), Frozen()),
]
NOT_NORMS = [nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2))]


@pytest.mark.parametrize("module", NORMS, ids=lambda module: type(module).__name__)
def test_is_a_norm(module):
    assert is_norm(module)


@pytest.mark.parametrize("module", NOT_NORMS, ids=lambda module: type(module).__name__)
def test_is_not_a_norm(module):
    assert not is_norm(module)


def test_timms_norms_that_are_not_subclasses_of_torchs():
    from fedtl.models.libraries import import_timm

    import_timm()
    from timm import layers

    for norm in (layers.RmsNorm(4), layers.SimpleNorm(4), layers.LayerNorm2d(4), layers.BatchNormAct2d(4)):
        assert is_norm(norm), type(norm)
    assert is_norm(layers.FrozenBatchNormAct2d(4))
    assert not is_norm(layers.Mlp(4))


def test_batch_norms_are_those_with_running_statistics_in_order():
    model = nn.Sequential(nn.LayerNorm(2), nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2)), Frozen())
    assert [path for path, _ in batch_norms(model)] == ["1", "2.0", "3"]
