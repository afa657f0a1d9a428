"""Adapters: where they are put, the start, merging against numpy, roles, the mean over silos, and what is refused."""

from collections import OrderedDict
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from fedtl._util.torchvision_import import import_torchvision
from fedtl.errors import ModelError
from fedtl.models.adapted import AdapterPlan, with_adapters
from fedtl.models.adapters import CHILD, Adapter, merged, merged_into
from fedtl.models.registry import model_spec
from fedtl.models.roles import Role, roles
from fedtl.models.split import split_at_classifier

KINDS = ("ffa-lora", "lora", "bottleneck")
SHAPES = {"mlp": (5,), "convnet": (1, 8, 8), "resnet20": (3, 8, 8)}


def adapted(spec, shape, kind="ffa-lora", rank=3, alpha=None, where=(), norms=False):
    return with_adapters(spec, AdapterPlan(kind, rank, alpha, where), shape, norms)


def moved(net, seed=0):
    """Give each trained tensor of an adapter other values."""
    draw, found = torch.Generator().manual_seed(seed), roles(net)
    for name, weight in net.named_parameters():
        if found[name] is Role.ADAPTER:
            weight.data.add_(0.3 * torch.randn(weight.shape, generator=draw))
    return net


def places(spec):
    return [
        path.removesuffix(f".{CHILD}") for path, one in spec.body.named_modules() if isinstance(one, Adapter)
    ]


class Odd(nn.Module):
    """Layers that can have an adapter, and layers that cannot."""

    def __init__(self):
        super().__init__()
        self.far = nn.Conv2d(2, 6, 3, stride=2, padding=2, dilation=2, padding_mode="reflect")
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
        self.late = nn.MultiheadAttention(6, 2)
        self.tied = nn.Linear(6, 6)
        self.tied_too = nn.Linear(6, 6)
        self.tied_too.weight = self.tied.weight
        self.raw = nn.Linear(6, 6)
        self.pair = nn.ModuleDict({"first": nn.Linear(6, 4), "second": nn.Linear(4, 6)})

    def forward(self, x):
        x = self.encoder(self.deep(self.far(x)).flatten(2).transpose(1, 2)).mean(1)
        x = nn.functional.linear(self.tied_too(self.tied(x)), self.raw.weight)
        return self.pair["second"](self.pair["first"](x))


@pytest.fixture(scope="module")
def odd():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(OrderedDict(body=Odd(), last=nn.Linear(6, 2)))
        return split_at_classifier(model, "last", (2, 9, 9), 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_it_starts_as_the_frozen_model_to_the_bit(name, kind):
    spec = model_spec(name, SHAPES[name], 0)
    own = adapted(spec, SHAPES[name], kind)
    before, after = spec.net(3), own.net(3)
    x = torch.randn(4, *SHAPES[name])
    assert torch.equal(before.eval()(x), after.eval()(x))
    # The names and values of all other tensors stay, and the model that was given has no adapter.
    state = after.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in before.state_dict().items())
    assert all(f".{CHILD}." in key for key in state.keys() - before.state_dict().keys())
    assert not torch.equal(moved(after)(x), before(x))


def test_the_initial_weights_depend_on_the_seed_and_the_path_alone():
    first = adapted(model_spec("convnet", (1, 8, 8), 0), (1, 8, 8))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fewer = adapted(model_spec("convnet", (1, 8, 8), 0), (1, 8, 8), where=["features.8"])
    assert torch.equal(before, torch.random.get_rng_state())
    other = adapted(model_spec("convnet", (1, 8, 8), 1), (1, 8, 8))
    key = f"body.features.8.{CHILD}.down.weight"
    a, b, c = (one.net(2).state_dict()[key] for one in (first, fewer, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def product(state, path, scale):
    """scale B A by numpy, float64, in the shape of the layer's weight."""
    down, up = (state[f"{path}.{CHILD}.{part}.weight"].numpy().astype(np.float64) for part in ("down", "up"))
    return scale * np.einsum("or,ri->oi", up.reshape(len(up), -1), down.reshape(len(down), -1)).reshape(
        len(up), *down.shape[1:]
    )


def weight_of(path):
    return f"{path}.{'in_proj_weight' if path.endswith('self_attn') else 'weight'}"


@pytest.mark.parametrize("kind", ["ffa-lora", "lora"])
def test_merged_weights_are_numpys_and_the_net_computes_the_same(odd, kind):
    own = moved(adapted(odd, (2, 9, 9), kind, rank=2, alpha=5.0).net(3))
    state, plain, x = own.state_dict(), merged(own), torch.randn(5, 2, 9, 9)
    assert plain.state_dict().keys() == odd.net(3).state_dict().keys()
    assert not any(isinstance(module, Adapter) for module in plain.modules())
    for path in places(adapted(odd, (2, 9, 9))):
        name = f"body.{weight_of(path)}"
        wanted = state[name].numpy() + product(state, f"body.{path}", 5.0 / 2)
        np.testing.assert_allclose(plain.state_dict()[name], wanted, rtol=1e-6, atol=1e-6)
    for mode in (True, False):  # torch has a path of its own for evaluation without gradients
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            both = [torch.manual_seed(3) and net.train(mode)(x) for net in (own, plain)]
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
    assert set(merged_into(own)) == {key for key in state if f".{CHILD}." in key}
    assert set(merged_into(own).values()) == {
        f"body.{weight_of(path)}" for path in places(adapted(odd, (2, 9, 9)))
    }
    assert type(plain.body.body.encoder.self_attn) is nn.MultiheadAttention


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "convnet", "resnet20"])
def test_merged_weights_and_scores_are_pefts(model):
    """peft puts the same A and B beside the same layers of a copy, and merges them by its own code."""
    import_torchvision()  # peft imports transformers, which imports it
    peft = pytest.importorskip("peft")
    spec = adapted(model_spec(model, SHAPES[model], 0), SHAPES[model], "lora", rank=2, alpha=5.0)
    own, x = moved(spec.net(3)).eval(), torch.randn(5, *SHAPES[model])
    plain, state = merged(own), own.state_dict()
    layers = [f"body.{path}" for path in places(spec)]
    # BatchNorm's statistics, biases and weights before adapters: what is left of ours when an adapter is taken away
    other = model_spec(model, SHAPES[model], 0).net(3).eval()
    other.load_state_dict({key: one for key, one in state.items() if f".{CHILD}." not in key})
    settings = peft.LoraConfig(r=2, lora_alpha=5.0, target_modules=layers, lora_dropout=0.0)
    theirs = peft.get_peft_model(other, settings).eval()
    for path in layers:
        layer = theirs.base_model.model.get_submodule(path)
        for factor, mine in ((layer.lora_A, "down"), (layer.lora_B, "up")):
            factor["default"].weight.data.copy_(state[f"{path}.{CHILD}.{mine}.weight"])
    with torch.no_grad():
        torch.testing.assert_close(own(x), theirs(x), rtol=1e-4, atol=1e-5)
        joined = theirs.merge_and_unload()
        torch.testing.assert_close(plain(x), joined(x), rtol=1e-4, atol=1e-5)
    for path in layers:
        weight = joined.get_submodule(path).weight
        assert not torch.equal(weight, state[f"{path}.weight"])
        torch.testing.assert_close(plain.get_submodule(path).weight, weight, rtol=1e-5, atol=1e-6)


def test_a_bottleneck_is_houlsbys_and_stays_in_the_net():
    own = moved(adapted(model_spec("mlp", (5,), 0), (5,), "bottleneck", where=["features.1"]).net(2)).eval()
    state = {key: one.double().numpy() for key, one in own.state_dict().items()}
    x = torch.randn(4, 5)
    y = x.double().numpy() @ state["body.features.1.weight"].T
    at = f"body.features.1.{CHILD}"
    inner = np.maximum(0, y @ state[f"{at}.down.weight"].T + state[f"{at}.down.bias"])
    wanted = y + inner @ state[f"{at}.up.weight"].T + state[f"{at}.up.bias"]
    np.testing.assert_allclose(own.body.features[1](x).detach(), wanted, rtol=1e-4, atol=1e-5)
    assert merged(own).state_dict().keys() == own.state_dict().keys()
    assert not merged_into(own)


@pytest.mark.parametrize("kind", ["ffa-lora", "lora"])
def test_only_a_fixed_first_matrix_makes_the_mean_over_silos_exact(kind):
    """The weight that the mean of three silos' tensors gives, and the mean of the three silos' weights."""
    spec = adapted(model_spec("mlp", (5,), 0), (5,), kind)
    states = [moved(deepcopy(spec.net(2)), seed).state_dict() for seed in range(3)]
    path = "body.features.1"
    mean = {
        key: torch.stack([state[key] for state in states]).double().mean(0)
        for key in states[0]
        if path in key
    }
    of_mean, mean_of = product(mean, path, 1), np.mean([product(state, path, 1) for state in states], 0)
    far = np.abs(of_mean - mean_of).max() / np.abs(mean_of).max()
    assert (far < 1e-6) == (kind == "ffa-lora")
    assert kind == "ffa-lora" or far > 0.05


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_roles_follow_from_the_type_and_everything_else_is_frozen(kind, norms):
    spec = adapted(model_spec("convnet", (1, 8, 8), 0), (1, 8, 8), kind, rank=2, norms=norms)
    net = spec.net(3)
    parts = {"ffa-lora": ("up",), "lora": ("down", "up"), "bottleneck": ("down", "up")}[kind]
    found = roles(net)
    wanted = {name for name in found if any(f".{CHILD}.{part}." in name for part in parts)}
    assert {name for name, role in found.items() if role is Role.ADAPTER} == wanted
    frozen = {Role.BODY} if norms else {Role.BODY, Role.NORM}
    assert spec.frozen == {name for name, role in found.items() if role in frozen}
    # r (in + out) numbers a layer, with a kernel of 3 x 3; FFA r out.
    sizes = [(9, 32), (9 * 32, 64), (9 * 64, 64)]
    numbers = {"ffa-lora": sum(2 * o for _, o in sizes), "lora": sum(2 * (i + o) for i, o in sizes)}
    if kind in numbers:
        assert sum(net.get_parameter(name).numel() for name in wanted) == numbers[kind]


def test_attention_of_a_timm_model():
    spec = model_spec("vit_tiny_patch16_224", (3, 32, 32), 0)
    own = adapted(spec, (3, 32, 32), where=["attention"])
    assert places(own) == [f"blocks.{n}.attn.{part}" for n in range(12) for part in ("qkv", "proj")]
    assert places(adapted(spec, (3, 32, 32), where=["blocks.*.attn.qkv"])) == places(own)[::2]


def test_layers_that_cannot_have_an_adapter_are_left_out(odd):
    chosen = ["far", "encoder.self_attn", "encoder.linear1", "encoder.linear2", "pair.first", "pair.second"]
    assert places(adapted(odd, (2, 9, 9))) == [f"body.{path}" for path in chosen]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("nothing.*", "'nothing"),
        ("body.encoder.self_attn.out_proj", "NonDynamicallyQuantizableLinear"),
        ("body.late", "batch_first"),
        ("body.deep", "6 groups"),
        ("body.tied", "its own alone"),
        ("body.raw", "without calling it"),
    ],
)
def test_an_entry_that_finds_no_layer_is_refused(odd, where, words):
    with pytest.raises(ModelError, match=words):
        adapted(odd, (2, 9, 9), where=["conv", where])


def test_a_model_without_layers_and_a_second_adapter_are_refused():
    with pytest.raises(ModelError, match="model.adapters.where"):
        adapted(model_spec("linear", (5,), 0), (5,))
    with pytest.raises(ModelError, match="already has"):
        adapted(adapted(model_spec("mlp", (5,), 0), (5,)), (5,), where=["features.1"])


class Crossed(nn.Module):
    """Attention whose queries, keys and values differ, with masks and its weights."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        hidden, causal = x.sum(2) > 2, torch.ones(3, 3).triu(1).bool()
        made, weights = self.attention(
            x, 2 * x, x.flip(2), key_padding_mask=hidden, attn_mask=causal, average_attn_weights=False
        )
        return torch.cat([made.flatten(1), weights.flatten(1)], 1)


def test_attention_with_other_keys_and_values_is_numpys():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(OrderedDict(body=Crossed(), last=nn.Linear(30, 2)))
        spec, x = split_at_classifier(model, "last", (3, 4), 0), torch.randn(5, 3, 4) - 1
    own = moved(adapted(spec, (3, 4), "lora", rank=2, where=["attention"]).net(2))
    layer = own.body.body.attention
    state = {key: one.double().numpy() for key, one in layer.state_dict().items()}
    weight = state["in_proj_weight"] + state["adapter.up.weight"] @ state["adapter.down.weight"]
    rows = x.double().numpy()
    parts = zip(
        (rows, 2 * rows, rows[..., ::-1]),
        np.split(weight, 3),
        np.split(state["in_proj_bias"], 3),
        strict=True,
    )
    q, k, v = ((part @ w.T + b).reshape(5, 3, 2, 2).swapaxes(1, 2) for part, w, b in parts)
    scores = q @ k.swapaxes(2, 3) / np.sqrt(2)
    scores = np.where(np.triu(np.ones((3, 3), bool), 1) | (rows.sum(2) > 2)[:, None, None], -np.inf, scores)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    wanted = (shares @ v).swapaxes(1, 2).reshape(5, 3, 4) @ state["out_proj.weight"].T + state[
        "out_proj.bias"
    ]
    found = own.body.body(x).detach().numpy()
    np.testing.assert_allclose(found[:, :12].reshape(5, 3, 4), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[:, 12:].reshape(5, 2, 3, 3), shares, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(merged(own).body.body(x).detach(), found, rtol=1e-4, atol=1e-5)
