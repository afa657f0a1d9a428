"""BatchNorm with constant statistics against numpy, against the libraries' models, and per example."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.dp_norm import (
    ChannelAffine,
    FixedNorm,
    SiloNorm,
    convert_norms,
    convert_state,
    restore_norms,
    restore_state,
)
from fedtl.models.libraries import import_timm
from fedtl.models.net import stages
from fedtl.models.norms import adabn_statistics, batch_norms, is_norm
from fedtl.models.registry import model_spec
from fedtl.models.roles import Role, roles
from fedtl.privacy.per_sample.clipping import by_bookkeeping, by_hooks

BUILT_IN = ["convnet", "mlp", "resnet20", "digitmodel"]
LIBRARIES = ["torchvision/resnet18", "resnet18", "densenet121", "torchvision/mobilenet_v2", "efficientnet_b0"]
ZOO = BUILT_IN + [pytest.param(name, marks=pytest.mark.slow) for name in LIBRARIES]


def shaken(model, seed=0):
    """Give normalisation layers values as after training: with their initial values many mistakes have no effect."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked.fill_(7)
            for tensor, low, high in (
                *((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)),
                *((module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5)),
            ):
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return model


@pytest.fixture(scope="module")
def made(request):
    """A net of the zoo, made once for all tests; each takes a copy."""
    return net_of(request.param)


@pytest.fixture
def net(made):
    return copy.deepcopy(made)


def net_of(name):
    """A model with statistics from one pass in training mode, so that its scores depend on the input."""
    with torch.random.fork_rng(devices=[]):
        net = shaken(model_spec(name, (3, 32, 32), 0).net(3)).double()
        torch.manual_seed(0)
        norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            net.train()(images(32, seed=7))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return net


def images(n, seed=1):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def scores(model, x):
    return model.eval()(x)


def small():
    torch.manual_seed(0)
    return shaken(
        nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3)),
            *(nn.BatchNorm2d(5, affine=False), nn.Hardswish(inplace=True), nn.Flatten()),
            *(nn.Linear(5 * 16, 7), nn.BatchNorm1d(7, eps=1e-3, momentum=None), nn.ReLU(), nn.Linear(7, 2)),
        )
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.BatchNorm1d, ()), (nn.BatchNorm1d, (4,)), (nn.BatchNorm2d, (4, 3)), (nn.BatchNorm3d, (2, 3, 2))],
)
def test_one_norm_against_numpy(kind, shape, training):
    old = shaken(kind(3, eps=0.1)).double()
    x = torch.randn(5, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mean, var, weight, bias = (
        tensor.detach().numpy().reshape(3, *[1] * len(shape))
        for tensor in (old.running_mean, old.running_var, old.weight, old.bias)
    )
    new = convert_norms(old).train(training)
    fixed = (x.numpy() - mean) / np.sqrt(var + 0.1)
    np.testing.assert_allclose(new.norm(x).numpy(), fixed, atol=1e-12)
    np.testing.assert_allclose(new.affine(x).detach().numpy(), x.numpy() * weight + bias, atol=1e-12)
    np.testing.assert_allclose(new(x).detach().numpy(), fixed * weight + bias, atol=1e-12)


def test_training_mode_changes_no_buffer_and_ignores_other_examples():
    x, other = torch.randn(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    other = torch.cat([x[:1], 10 * other[1:]])

    def moved(model):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        first = (model.train()(x)[0] - model(other)[0]).abs().max().item()
        return first, [
            name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])
        ]

    assert moved(convert_norms(small())) == (0, [])
    change, buffers = moved(small())
    assert change > 0.01
    assert len(buffers) == 9


def test_the_layers_of_a_converted_model():
    body = small()
    new = convert_norms(body)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in body.modules()) == 2, (
        "the body itself was changed"
    )
    assert [module.inplace for module in body if hasattr(module, "inplace")] == [True, True, False]
    assert [module.inplace for module in new if hasattr(module, "inplace")] == [False, False, False]
    assert [list(dict(module.named_children())) for module in new if isinstance(module, SiloNorm)] == [
        *(["norm", "affine"], ["norm"], ["norm", "affine"])
    ]
    for module in new.modules():
        owns = [*dict(module.named_parameters(recurse=False))], [*dict(module.named_buffers(recurse=False))]
        if isinstance(module, FixedNorm):
            assert owns == ([], ["running_mean", "running_var"])
        else:
            assert not owns[1]
    assert not {id(tensor) for tensor in body.state_dict(keep_vars=True).values()} & {
        id(tensor) for tensor in new.state_dict(keep_vars=True).values()
    }


def test_a_norm_without_shift_and_an_empty_batch():
    old = nn.BatchNorm2d(3)
    old.bias = None
    old = shaken(old)
    new, x = convert_norms(old), torch.randn(4, 3, 2, 2)
    assert torch.allclose(scores(old, x), scores(new, x), atol=1e-6)
    assert list(restore_norms(new).state_dict()) == list(old.state_dict())
    assert new(x[:0]).shape == (0, 3, 2, 2)


def test_a_norm_that_is_used_twice_is_converted_once():
    norm = nn.BatchNorm1d(4)
    frozen = nn.BatchNorm1d(4).requires_grad_(False).eval()
    model = nn.Sequential(norm, nn.Linear(4, 4), nn.Sequential(norm), frozen)
    for new in (convert_norms(model), restore_norms(convert_norms(model))):
        assert new[0] is new[2][0]
        assert new.state_dict().keys() >= {"0.norm.running_var"} or isinstance(new[0], nn.BatchNorm1d)
        assert not any(tensor.requires_grad for tensor in new[3].parameters())
        assert [module.training for module in (new[0], new[3])] == [True, False]


def test_timms_norm_keeps_its_activation_and_dropout():
    import_timm()
    from timm.layers import BatchNormAct2d

    old = shaken(
        BatchNormAct2d(3, eps=1e-3, momentum=0.01, act_layer=nn.PReLU, drop_layer=nn.Dropout2d, inplace=False)
    )
    new, x = convert_norms(nn.Sequential(old)), torch.randn(4, 3, 5, 5)
    assert [type(module) for module in new[0]] == [FixedNorm, ChannelAffine, nn.Dropout2d, nn.PReLU]
    assert torch.allclose(scores(old, x), scores(new, x), atol=1e-6)
    back = restore_norms(new)[0]
    assert type(back) is BatchNormAct2d
    assert (back.eps, back.momentum) == (1e-3, 0.01)
    assert torch.allclose(scores(old, x), scores(back, x), atol=1e-6)
    assert (
        convert_state(nn.Sequential(old), nn.Sequential(old).state_dict()).keys() == new.state_dict().keys()
    )


class MyNorm(nn.BatchNorm2d):
    """A subclass, whose forward may do anything."""


REFUSED = [
    *(MyNorm(2), nn.SyncBatchNorm(2), nn.InstanceNorm2d(2, track_running_stats=True)),
    nn.BatchNorm2d(2, track_running_stats=False),
]


@pytest.mark.parametrize("norm", REFUSED, ids=lambda norm: type(norm).__name__)
def test_refused_by_path_and_type(norm):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.ReLU(), norm))
    for ask in (convert_norms, lambda model: convert_state(model, {})):
        with pytest.raises(ModelError, match=rf"^1\.1 is a {type(norm).__name__}"):
            ask(model)
    with pytest.raises(ModelError, match=rf"^the model .*{type(norm).__name__}"):
        convert_norms(norm)


def test_norms_within_one_example_are_not_converted():
    model = nn.Sequential(nn.GroupNorm(1, 2), nn.LayerNorm(2), nn.InstanceNorm1d(2), nn.RMSNorm(2))
    assert [type(module) for module in convert_norms(model)] == [type(module) for module in model]


@pytest.mark.parametrize("made", ZOO, indirect=True, scope="module")
def test_a_model_converted_and_restored(net):
    x = images(3)
    new = convert_norms(net)
    back = restore_norms(new)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in new.modules())
    wanted = scores(net, x)
    assert wanted.std(0).min() > 0.01, "these scores would not show a mistake"
    size = wanted.abs().max()
    for model, kind, error in ((new, x.dtype, 1e-12), (back, x.dtype, 1e-12), (new, torch.float32, 1e-4)):
        assert (scores(model.to(kind), x.to(kind)) - wanted).abs().max() < error * size
    for before, after in zip(net.modules(), back.modules(), strict=True):
        assert type(before) is type(after)
        if isinstance(before, nn.modules.batchnorm._BatchNorm):
            assert before.extra_repr() == after.extra_repr()


@pytest.mark.parametrize("made", ZOO, indirect=True, scope="module")
def test_names_converted_and_restored(net):
    state, new = net.state_dict(), convert_norms(net)
    converted = convert_state(net, state)
    assert converted.keys() == new.state_dict().keys()
    assert all(torch.equal(tensor, new.state_dict()[key]) for key, tensor in converted.items())
    for either in (net, new):
        assert convert_state(either, state).keys() == converted.keys()
        back = restore_state(either, converted)
        assert back.keys() == state.keys()
        assert all(
            tensor.item() == 0 and tensor.dtype == torch.long
            if "num_batches" in key
            else torch.equal(tensor, state[key])
            for key, tensor in back.items()
        )
    places, stood = roles(new), roles(net)
    numbers = {key: torch.tensor(number) for number, key in enumerate(state)}
    mapped = {key: [] for key in state}
    for key, number in convert_state(net, numbers).items():
        mapped[list(state)[number]].append(key)
    for key, its in mapped.items():
        assert [places[one] for one in its] == ([] if stood[key] is Role.COUNT else [stood[key]]), key
    assert [[key for one in stage for key in mapped[f"body.{one}"]] for stage in stages(net.body)] == [
        [f"body.{one}" for one in stage] for stage in stages(new.body)
    ]


def test_converted_names():
    """Against a table written by hand."""
    net = nn.ModuleDict({"body": nn.ModuleDict({"bn1": nn.BatchNorm2d(2), "ln": nn.LayerNorm(2)})})
    wanted = {
        "body.bn1.weight": "body.bn1.affine.weight",
        "body.bn1.bias": "body.bn1.affine.bias",
        "body.bn1.running_mean": "body.bn1.norm.running_mean",
        "body.bn1.running_var": "body.bn1.norm.running_var",
        "body.ln.weight": "body.ln.weight",
        "head.weight": "head.weight",
        "frozen.running_var": "frozen.running_var",
    }
    state = {name: torch.tensor(number) for number, name in enumerate(wanted)}
    converted = convert_state(net, state | {"body.bn1.num_batches_tracked": torch.tensor(9)})
    assert converted == {new: state[old] for old, new in wanted.items()}
    assert restore_state(net, converted) == state | {"body.bn1.num_batches_tracked": torch.tensor(0)}
    assert restore_state(net, {"body.bn1.affine.bias": torch.tensor(3)}) == {"body.bn1.bias": torch.tensor(3)}


def test_roles_and_norms():
    new = convert_norms(
        nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "head": nn.Linear(2, 2)})
    )
    assert roles(new) == {
        **{"body.0.weight": "body", "body.0.bias": "body"},
        **{"body.1.norm.running_mean": "stats", "body.1.norm.running_var": "stats"},
        **{"body.1.affine.weight": "norm", "body.1.affine.bias": "norm"},
        **{"head.weight": "head", "head.bias": "head"},
    }
    assert [path for path, _ in batch_norms(new)] == ["body.1.norm"]
    assert [is_norm(module) for module in (FixedNorm(2), ChannelAffine(2), new["body"][1], new["body"])] == [
        *(True, True, True, False)
    ]


@pytest.mark.parametrize("name", ["small", "resnet20", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_adabn_equals_that_of_the_ordinary_body(name):
    body = small().double() if name == "small" else net_of(name).body
    sizes = [9, 4, 6] if name == "small" else [5, 4]
    batches = [
        2 * images(n, seed=n)[:, :, :8, :8] + n if name == "small" else images(n, seed=n) for n in sizes
    ]
    wanted = convert_state(body, adabn_statistics(body, batches))
    new = convert_norms(body).train()
    before, flags = copy.deepcopy(new.state_dict()), [module.training for module in new.modules()]
    found = adabn_statistics(new, batches)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.allclose(found[key], tensor, rtol=1e-5, atol=1e-6), key
        assert not torch.allclose(tensor.double(), before[key], rtol=1e-2), (
            "this test would not notice a mistake"
        )
    assert all(torch.equal(before[key], tensor) for key, tensor in new.state_dict().items())
    assert [module.training for module in new.modules()] == flags
    assert not any(module._forward_pre_hooks for module in new.modules())


def steady(model):
    """Return the model in training mode with all dropout off."""
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return model


ALL = (*BUILT_IN, *LIBRARIES, "torchvision/googlenet")
# What is computed for a layer does not depend on the model around it, and these have every kind of layer of the others.
EVERY_LAYER = (*BUILT_IN, "torchvision/mobilenet_v2")
NOT_NIGHTLY = {by_hooks: EVERY_LAYER, by_bookkeeping: (*EVERY_LAYER, "resnet18", "efficientnet_b0")}
WAYS = [
    (name, way) if name in NOT_NIGHTLY[way] else pytest.param(name, way, marks=pytest.mark.nightly)
    for name in ALL
    for way in (by_bookkeeping, by_hooks)
]


@pytest.mark.slow
@pytest.mark.parametrize(("made", "way"), WAYS, indirect=["made"], scope="module")
def test_per_example_gradients(net, way):
    """Of the converted model in training mode, against autograd on the library's model in eval()."""
    x, y = images(3), images(3)[:, :, 0, 0]
    new = steady(convert_norms(net))
    names = [key for key, _ in new.named_parameters()]
    _, weighted = way(new, torch.arange(3), lambda model, rows: (model(x[rows]) - y[rows]).square().sum(1))
    net.eval()
    for row, only in enumerate(torch.eye(3, dtype=x.dtype)):
        found = dict(zip(names, weighted(only), strict=True))
        net.zero_grad()
        (net(x[row : row + 1]) - y[row]).square().sum().backward()
        wanted = convert_state(net, {key: weight.grad for key, weight in net.named_parameters()})
        assert found.keys() == wanted.keys()
        for key, gradient in wanted.items():
            size = gradient.norm()
            assert size > 0, key
            assert (found[key] - gradient).norm() <= 1e-6 * size, key
