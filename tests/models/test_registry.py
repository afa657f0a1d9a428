"""Models by name: body and head equal the whole model, first weights follow from the seed, and what they import."""

import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.libraries import import_timm, import_torchvision
from fedtl.models.net import seeded, stages
from fedtl.models.registry import MODELS, check_model_name, model_spec
from fedtl.models.split import split_at_classifier


def whole_timm(name, **extra):
    return import_timm().create_model(name, num_classes=5, **extra)


def whole_torchvision(name):
    return import_torchvision().models.get_model(name, weights=None, num_classes=5)


WHOLE = {
    "resnet18": lambda: whole_timm("resnet18"),
    "densenet121": lambda: whole_timm("densenet121"),
    "efficientnet_b0": lambda: whole_timm("efficientnet_b0"),
    "convnext_atto": lambda: whole_timm("convnext_atto"),
    "mobilenetv3_small_050": lambda: whole_timm("mobilenetv3_small_050"),
    "vit_tiny_patch16_224": lambda: whole_timm("vit_tiny_patch16_224", img_size=(64, 64)),
    "torchvision/mobilenet_v2": lambda: whole_torchvision("mobilenet_v2"),
    "torchvision/resnet18": lambda: whole_torchvision("resnet18"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_body_and_head_equal_the_whole_model(name):
    plan = model_spec(name, (3, 64, 64), 1)
    net = plan.net(5).eval()
    state = net.state_dict()
    with torch.random.fork_rng(devices=[]):
        whole = WHOLE[name]().eval()
    whole.load_state_dict({plan.library_name(tensor): value for tensor, value in state.items()})
    assert all(plan.net_name(plan.library_name(tensor)) == tensor for tensor in state)
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        features = net.body(x)
        assert features.shape[:2] == (3, plan.features)
        assert torch.allclose(net.head(features), whole(x), atol=1e-4)
        assert torch.equal(net(x), net.head(features))


def test_squeezenet_which_pools_after_its_classifier_can_be_split():
    plan = model_spec("torchvision/squeezenet1_1", (3, 64, 64), 1)
    net = plan.net(5).eval()
    whole = whole_torchvision("squeezenet1_1").eval()
    whole.load_state_dict({plan.library_name(name): value for name, value in net.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(net(x), whole(x), atol=1e-4)


@pytest.mark.parametrize("name", list(MODELS.own))
@pytest.mark.parametrize("channels", [1, 3])
def test_built_in_models_take_their_shape_and_any_head(name, channels):
    shape = (channels, 16) if name in ("convnet1d", "gru") else (channels, 16, 16)
    plan = model_spec(name, shape, 0)
    x = torch.randn(4, *shape)
    for width in (1, 2, 11):
        net = plan.net(width).eval()
        assert net(x).shape == ((4, width, 16, 16) if name == "unet" else (4, width))
        assert net.body is plan.body


def test_mlp_takes_tables_and_the_other_models_refuse_them():
    assert model_spec("mlp", (7,), 0).net(2).eval()(torch.randn(3, 7)).shape == (3, 2)
    for name in ("convnet", "digitmodel", "resnet20"):
        with pytest.raises(ModelError, match=rf"'{name}'.*7 columns"):
            model_spec(name, (7,), 0)
    for name, shape in (("gru", (7,)), ("convnet1d", (1, 8, 8)), ("convnet", (3, 8)), ("resnet18", (3, 8))):
        with pytest.raises(ModelError, match="takes (images, not )?series"):
            model_spec(name, shape, 0)
    with pytest.raises(ModelError, match="8 px or more"):
        model_spec("resnet20", (3, 4, 4), 0)
    with pytest.raises(ModelError, match="takes images"):
        model_spec("resnet18", (7,), 0)
    with pytest.raises(ModelError, match="data.channels = 3"):
        model_spec("torchvision/resnet18", (1, 64, 64), 0)


def test_an_image_that_is_too_small_is_a_model_error():
    with pytest.raises(ModelError, match=r"'torchvision/alexnet'.*\(3, 8, 8\)"):
        model_spec("torchvision/alexnet", (3, 8, 8), 0)


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet20", "resnet18"])
def test_first_weights_depend_on_the_seed_alone(name):
    before = torch.get_rng_state()
    first = model_spec(name, (3, 16, 16), 3).net(5).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    again = model_spec(name, (3, 16, 16), 3).net(5).state_dict()
    other = model_spec(name, (3, 16, 16), 4).net(5).state_dict()
    assert all(torch.equal(first[tensor], again[tensor]) for tensor in first)
    drawn = [tensor for tensor in first if tensor.endswith("weight") and first[tensor].std() > 0]
    assert len(drawn) > 2
    assert not any(torch.equal(first[tensor], other[tensor]) for tensor in drawn)


def test_a_head_depends_on_seed_and_width_only():
    plan = model_spec("mlp", (4,), 0)
    first = plan.net(3).head.weight.clone()
    plan.net(5)
    assert torch.equal(plan.net(3).head.weight, first)
    assert torch.equal(model_spec("mlp", (4,), 0).net(3).head.weight, first)


def test_an_unknown_name_gives_similar_names():
    with pytest.raises(ModelError, match=r"'convnt'.* 'convnet'\?"):
        check_model_name("convnt")
    with pytest.raises(ModelError, match="mean .*efficientnet_b0"):
        model_spec("fficientnet_b0", (3, 32, 32), 0)
    with pytest.raises(ModelError, match="'resnet19'"):
        model_spec("torchvision/resnet19", (3, 32, 32), 0)
    with pytest.raises(ModelError, match="'fcn_resnet50'"):
        model_spec("torchvision/fcn_resnet50", (3, 64, 64), 0)


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_a_failed_download_is_a_model_error(name, monkeypatch):
    def gone(*args, **kwargs):
        raise OSError("no network here")

    owner = import_timm() if name == "resnet18" else import_torchvision().models
    real = getattr(owner, "create_model" if name == "resnet18" else "get_model")

    def only_random(*args, **kwargs):
        return gone() if kwargs.get("pretrained") or kwargs.get("weights") else real(*args, **kwargs)

    monkeypatch.setattr(owner, real.__name__, only_random)
    with pytest.raises(ModelError, match="this machine .no network"):
        model_spec(name, (3, 64, 64), 0, pretrained=True)


class NotLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x) * 2


def test_a_classifier_that_is_not_last_is_refused():
    with pytest.raises(ModelError, match="'fc' is not"):
        split_at_classifier(NotLast(), "fc", (4,), 0)
    with pytest.raises(ModelError, match="classifier is a ReLU"):
        split_at_classifier(nn.Sequential(OrderedDict(a=nn.Linear(4, 3), b=nn.ReLU())), "b", (4,), 0)


def count_of(body):
    found = stages(body)
    named = [name for stage in found for name in stage]
    assert len(named) == len(set(named))
    assert set(named) == {name for name, _ in body.named_parameters()}
    return len(found)


def test_stages():
    """ResNet: stem and four; EfficientNet: stem, seven and the last convolution; ViT: embedding and twelve blocks."""
    assert count_of(model_spec("resnet18", (3, 64, 64), 0).body) == 5
    assert count_of(model_spec("efficientnet_b0", (3, 64, 64), 0).body) == 9
    assert count_of(model_spec("vit_tiny_patch16_224", (3, 64, 64), 0).body) == 13
    assert count_of(model_spec("mlp", (4,), 0).body) == 2
    assert count_of(model_spec("convnet", (1, 8, 8), 0).body) == 3
    assert count_of(nn.Identity()) == 0
    assert stages(nn.Linear(2, 2)) == [["weight", "bias"]]


def test_the_blocks_of_a_text_model_are_stages_however_deep_it_is_wrapped():
    """As transformers builds BERT: a model in a model, whose encoder has nothing but the list of its blocks."""

    def block():
        return nn.ModuleDict({"attention": nn.Linear(2, 2), "mlp": nn.Linear(2, 2), "dropout": nn.Dropout()})

    embeddings = nn.ModuleDict({"words": nn.Embedding(3, 2), "places": nn.Embedding(3, 2)})
    for blocks in (2, 4):
        encoder = nn.ModuleDict({"layer": nn.ModuleList(block() for _ in range(blocks))})
        whole = nn.ModuleDict({"embeddings": embeddings, "encoder": encoder})
        body = nn.ModuleDict({"transformer": nn.ModuleDict({"bert": whole, "classifier": nn.Identity()})})
        assert count_of(body) == 2 + blocks
        assert all("encoder.layer.1." in name for name in stages(body)[3])


def test_stages_start_at_the_input_and_include_the_norms_of_their_layers():
    resnet = stages(model_spec("resnet18", (3, 64, 64), 0).body)
    assert resnet[0] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert all(all(name.startswith(f"layer{number}.") for name in resnet[number]) for number in range(1, 5))
    vit = stages(model_spec("vit_tiny_patch16_224", (3, 64, 64), 0).body)
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(vit[0])
    assert all(any(name.startswith(f"blocks.{number}.") for name in vit[number + 1]) for number in range(12))
    assert {"norm.weight", "norm.bias"} <= set(vit[12])


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.nightly  # the next test imports it as fedtl does
def test_torchvision_imports_once_the_missing_operators_are_defined():
    plain = python("import torchvision")
    if plain.returncode == 0:
        pytest.skip("torchvision fits this torch: nothing is missing")
    assert "torchvision::nms" in plain.stderr
    done = python(
        "from fedtl._util.torchvision_import import define_missing_operators as define\n"
        "assert define() == ['nms', 'qnms'], 'first'\n"
        "assert define() == [], 'second'\n"
        "import torchvision\n"
        "torchvision.models.get_model('resnet18', weights=None)\n"
        "assert define() == [], 'third'\n"
    )
    assert done.returncode == 0, done.stderr


def test_built_in_models_need_neither_library_and_import_torchvision_works_here_and_twice():
    done = python(
        "import sys\n"
        "from fedtl.models.registry import model_spec\n"
        "model_spec('mlp', (4,), 0).net(2)\n"
        "assert not {'timm', 'torchvision'} & set(sys.modules), 'built-in'\n"
        "from fedtl._util.torchvision_import import define_missing_operators, import_torchvision\n"
        "assert import_torchvision() is import_torchvision()\n"
        "assert define_missing_operators() == []\n"
        "import timm\n"
    )
    assert done.returncode == 0, done.stderr


def test_weights_are_drawn_on_the_cpu_alone(monkeypatch):
    """torch.manual_seed would seed GPUs too, and keep a stack trace of each call where there is none."""
    monkeypatch.setattr(
        torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's generator is seeded")
    )
    before = torch.get_rng_state()
    with seeded("weights", 1):
        drawn = torch.randn(3)
    with seeded("weights", 1):
        assert torch.equal(torch.randn(3), drawn)
    assert torch.equal(torch.get_rng_state(), before)
