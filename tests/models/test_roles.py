"""The role of each tensor of many models, counted by type; and that the shared and the local part make the whole."""

from functools import lru_cache

import pytest
import torch
from torch import nn

from fedtl.errors import PartitionError
from fedtl.methods.losses import PerExample
from fedtl.methods.registry import BETWEEN_SILOS, METHODS, SELF_SUPERVISED, SOURCE_FREE
from fedtl.models.net import Net
from fedtl.models.registry import model_spec
from fedtl.models.roles import EVERYTHING, Partition, Role, roles

# Names, and how many norm modules the architecture has (counted in the papers' tables, checked below by type).
ZOO = {
    "resnet18": 20,
    "densenet121": 121,
    "efficientnet_b0": 49,
    "convnext_tiny": 23,
    "vit_tiny_patch16_224": 25,
    "torchvision/mobilenet_v2": 52,
    "convnet": 3,
    "mlp": 2,
    "linear": 0,
    "digitmodel": 5,
    "resnet20": 19,
    "convnet1d": 3,
    "gru": 1,
    "unet": 14,
    "torchvision/vgg16_bn": 13,  # last, because it takes seconds to make, and the next test needs it too
}
SHAPES = {"resnet20": (3, 32, 32), "convnet1d": (3, 16), "gru": (3, 16)}
TORCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@lru_cache(maxsize=1)  # tests run model by model, and one at a time is in memory
def net_of(name):
    with torch.random.fork_rng(devices=[]):
        return model_spec(name, SHAPES.get(name, (3, 64, 64)), 0).net(5)


@pytest.fixture(params=ZOO, scope="module")
def model(request):
    return request.param, net_of(request.param)


def test_every_name_has_a_role_in_the_states_order(model):
    _, net = model
    found = roles(net)
    assert list(found) == list(net.state_dict())
    assert set(found.values()) <= set(Role)


def test_norm_roles_equal_those_found_by_module_type(model):
    name, net = model
    walked = {path: module for path, module in net.named_modules() if isinstance(module, TORCH_NORMS)}
    assert len(walked) == ZOO[name]
    norm, stats, count = set(), set(), set()
    for path, module in walked.items():
        norm |= {f"{path}.{tensor}" for tensor in ("weight", "bias") if getattr(module, tensor) is not None}
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            stats |= {f"{path}.running_mean", f"{path}.running_var"}
            count.add(f"{path}.num_batches_tracked")
    found = roles(net)
    for role, wanted in ((Role.NORM, norm), (Role.STATS, stats), (Role.COUNT, count)):
        assert {tensor for tensor, its in found.items() if its is role} == wanted


def test_the_head_is_exactly_the_classifier(model):
    _, net = model
    found = roles(net)
    assert {name for name, role in found.items() if role is Role.HEAD} == {"head.weight", "head.bias"}
    assert net.state_dict()["head.bias"].shape == (5,)
    assert Role.AUX not in found.values()


def test_every_other_tensor_is_body(model):
    _, net = model
    for name, role in roles(net).items():
        assert role is not Role.BODY or name.startswith("body.")


def test_vgg_has_norms_without_norm_in_their_names():
    found = roles(net_of("torchvision/vgg16_bn"))
    assert found["body.features.1.weight"] is Role.NORM
    assert found["body.features.1.running_mean"] is Role.STATS
    assert found["body.features.1.num_batches_tracked"] is Role.COUNT
    assert found["body.features.10.weight"] is Role.BODY
    assert found["body.features.10.bias"] is Role.BODY
    assert found["body.classifier.0.weight"] is Role.BODY


def test_resnets_shortcut_has_a_norm():
    found = roles(net_of("resnet18"))
    assert found["body.layer2.0.downsample.0.weight"] is Role.BODY
    assert found["body.layer2.0.downsample.1.weight"] is Role.NORM
    assert found["body.layer2.0.downsample.1.bias"] is Role.NORM
    assert found["body.layer2.0.downsample.1.running_var"] is Role.STATS


def terms_of(method):
    return [term for term in method.losses if isinstance(term, PerExample)]


@lru_cache(maxsize=4)
def small_net(method):
    return model_spec("convnet", (1, 8, 8), 0).net(3, [term.modules for term in terms_of(METHODS[method]())])


@pytest.mark.parametrize("name", list(METHODS))
def test_split_and_join_make_the_whole(name):
    net = small_net(name)
    partition = Partition(roles(net), METHODS[name]().shared)
    state = net.state_dict()
    shared, local = partition.split(state)
    joined = partition.join(shared, local)
    assert joined.keys() == state.keys()
    assert not shared.keys() & local.keys()
    assert all(torch.equal(joined[tensor], state[tensor]) for tensor in state)
    assert not any(partition.roles[tensor] is Role.COUNT for tensor in shared)
    assert all(shared[tensor].data_ptr() != state[tensor].data_ptr() for tensor in shared)
    assert list(shared) == sorted(shared)
    assert list(local) == sorted(local)
    net.load_state_dict(joined)


SHARED = {
    "local": set(),
    "probe": set(),
    **{name: set() for name in ("ridge", "fedmd", "fedproto")},
    "pooled": EVERYTHING,
    "fedavg": EVERYTHING,
    "fedprox": EVERYTHING,
    "fedbn": {Role.BODY, Role.ADAPTER, Role.HEAD, Role.AUX},
    "silobn": {Role.BODY, Role.ADAPTER, Role.HEAD, Role.AUX, Role.NORM},
    **{
        name: {Role.BODY, Role.ADAPTER, Role.AUX, Role.NORM, Role.STATS}
        for name in ("fedper", "fedrep", "fedbabu")
    },
    "lgfedavg": {Role.HEAD},
    **{
        name: {Role.BODY, Role.ADAPTER, Role.AUX, Role.NORM}
        for name in ("fedtl", "dann", "mmd", "coral", "protonet", *SELF_SUPERVISED)
    },
    **dict.fromkeys(("ditto", "apfl", "scaffold", "fedala", "ifca", "moon", "feddf", "autodial"), EVERYTHING),
    **dict.fromkeys(("kd3a", "select_start"), EVERYTHING),
    **dict.fromkeys(("mrmtl", "armul", "simultaneous", *BETWEEN_SILOS), EVERYTHING - {Role.STATS}),
    **dict.fromkeys(("shot", "randconv", *SOURCE_FREE), EVERYTHING - {Role.STATS}),
}


def test_each_method_shares_the_roles_of_its_paper():
    assert {name: set(METHODS[name]().shared) for name in METHODS.own} == SHARED


@pytest.mark.parametrize("name", list(METHODS))
def test_no_method_shares_a_counter(name):
    assert Role.COUNT not in METHODS[name]().shared


def test_fedbn_and_silobn_on_a_zoo_model(model):
    _, net = model
    found = roles(net)
    norms = {path for path, module in net.named_modules() if isinstance(module, TORCH_NORMS)}
    fedbn, _ = Partition(found, METHODS["fedbn"]().shared).split(net.state_dict())
    assert not {name.rpartition(".")[0] for name in fedbn} & norms
    silobn, kept = Partition(found, METHODS["silobn"]().shared).split(net.state_dict())
    assert not [
        name for name in silobn if name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    assert all(found[name] in (Role.STATS, Role.COUNT) for name in kept)


def test_sharing_a_counter_is_refused():
    with pytest.raises(PartitionError, match="counters"):
        Partition({"n": Role.COUNT}, frozenset({Role.COUNT}))


def test_states_with_other_names_are_refused():
    net = small_net("fedper")
    partition = Partition(roles(net), METHODS["fedper"]().shared)
    state = net.state_dict()
    shared, local = partition.split(state)
    with pytest.raises(PartitionError, match=r"body\.extra"):
        partition.split({**state, "body.extra": torch.zeros(1)})
    with pytest.raises(PartitionError, match=r"head\.bias"):
        partition.split({name: value for name, value in state.items() if name != "head.bias"})
    with pytest.raises(PartitionError, match=r"head\.bias"):
        partition.join(shared, {name: value for name, value in local.items() if name != "head.bias"})
    with pytest.raises(PartitionError, match=r"\['head.bias'\] are in both"):
        partition.join({**shared, "head.bias": local["head.bias"]}, local)


class Unusual(nn.Module):
    """Parameters and buffers of unusual kinds."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("anchor", torch.zeros(2))
        self.register_buffer("index", torch.arange(2))
        self.register_buffer("passing", torch.zeros(2), persistent=False)
        self.norm_but_by_name_only = nn.Linear(2, 2)

    def forward(self, x):
        return self.norm_but_by_name_only(x)


def test_unusual_tensors():
    head = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))
    net = Net(Unusual(), head, nn.ModuleDict({"domain": nn.Sequential(nn.Linear(2, 1), nn.LayerNorm(1))}))
    assert roles(net) == {
        "body.scale": Role.BODY,
        "body.anchor": Role.BODY,
        "body.index": Role.COUNT,
        "body.norm_but_by_name_only.weight": Role.BODY,
        "body.norm_but_by_name_only.bias": Role.BODY,
        "head.0.weight": Role.NORM,
        "head.0.bias": Role.NORM,
        "head.0.running_mean": Role.STATS,
        "head.0.running_var": Role.STATS,
        "head.0.num_batches_tracked": Role.COUNT,
        "head.1.weight": Role.HEAD,
        "head.1.bias": Role.HEAD,
        "aux.domain.0.weight": Role.AUX,
        "aux.domain.0.bias": Role.AUX,
        "aux.domain.1.weight": Role.NORM,
        "aux.domain.1.bias": Role.NORM,
    }


def test_tied_weights_have_one_role_under_their_first_name():
    body = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    body[1].weight = body[0].weight
    net = Net(body, nn.Linear(2, 1), nn.ModuleDict())
    assert roles(net).keys() == net.state_dict().keys()
    assert roles(net)["body.0.weight"] is Role.BODY
    assert "body.1.weight" not in roles(net)


def test_a_module_used_twice_has_one_role_under_its_first_name():
    layer = nn.Linear(2, 2)
    norm = nn.BatchNorm1d(2)
    net = Net(nn.Sequential(layer, norm, layer, norm), nn.Linear(2, 1), nn.ModuleDict())
    found = roles(net)
    assert found.keys() == net.state_dict().keys()
    assert found["body.1.running_mean"] is Role.STATS
    assert not any(name.startswith(("body.2", "body.3")) for name in found)
