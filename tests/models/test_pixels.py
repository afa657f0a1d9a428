"""The scale of pixels: the library's own numbers, looked up once, written down, and part of the model wherever it is used."""

import json

import pytest
import torch
from torch import nn

from fedtl._util.torchvision_import import import_transforms
from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.model_schema import ModelSettings
from fedtl.experiment.pixels import pixel_notes, recorded_pixels, with_pixels
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run_folder import RunFolder
from fedtl.models.libraries import pixel_scale_of
from fedtl.models.pixels import PixelScale, with_pixel_scale
from fedtl.models.registry import model_spec, with_private_norms
from tests.experiment.runs import do, small

IMAGENET = PixelScale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHAPE = (3, 8, 8)


def test_a_body_gets_what_torchvision_normalises():
    x = torch.randint(256, (4, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    v2, signed = import_transforms(), x.float().div(127.5).sub(1)
    wanted = v2.functional.normalize(x.float() / 255, list(IMAGENET.mean), list(IMAGENET.std))
    assert torch.allclose(IMAGENET.from_signed(signed), wanted, atol=1e-5)
    spec = model_spec("convnet", SHAPE, 0)
    scaled = with_private_norms(with_pixel_scale(spec, IMAGENET)).body.eval()
    with torch.no_grad():
        assert torch.allclose(scaled(signed), spec.body.eval()(wanted), atol=1e-4)
    assert scaled.state_dict().keys() == with_private_norms(spec).body.state_dict().keys()


def test_pixels_of_minus_one_to_one_change_nothing():
    spec = model_spec("convnet", SHAPE, 0)
    assert with_pixel_scale(spec, PixelScale((0.5,), (0.5,))) is spec


def test_channels():
    assert PixelScale((0.4,), (0.2,)).for_channels(3) == PixelScale((0.4,) * 3, (0.2,) * 3)
    grey = IMAGENET.for_channels(1)
    assert (grey.mean, grey.std) == ((pytest.approx(0.449),), (pytest.approx(0.226),))
    with pytest.raises(ModelError, match="3 channels"):
        IMAGENET.for_channels(4)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("resnet18", IMAGENET),
        ("torchvision/resnet18", IMAGENET),
        ("vit_tiny_patch16_224", PixelScale((0.5,) * 3, (0.5,) * 3)),
        ("convnet", None),
    ],
)
def test_the_scale_is_that_of_the_librarys_configuration(name, scale):
    assert pixel_scale_of(name) == scale


NUMBERS = [list(IMAGENET.mean), list(IMAGENET.std)]


@pytest.mark.parametrize(
    ("settings", "pixels", "wanted"),
    [
        ({"name": "resnet18", "weights": "pretrained"}, True, NUMBERS),
        ({"name": "resnet18", "weights": "pretrained"}, None, NUMBERS),
        ({"name": "resnet18", "weights": "pretrained"}, False, "auto"),
        ({"name": "resnet18"}, True, "auto"),
        ({"name": "resnet18", "weights": "/a.pth"}, True, "auto"),
        ({"name": "resnet18", "pixels": "library"}, True, NUMBERS),
        ({"pixels": [[0.1], [0.2]]}, True, [[0.1] * 3, [0.2] * 3]),
        (
            {"name": "resnet18", "weights": "pretrained", "pixels": [[0.5], [0.5]]},
            True,
            [[0.5] * 3, [0.5] * 3],
        ),
    ],
)
def test_what_is_looked_up(settings, pixels, wanted):
    assert with_pixels(ModelSettings(**settings), SHAPE, pixels).pixels == wanted


@pytest.mark.parametrize(
    ("settings", "shape", "pixels", "match"),
    [
        ({"pixels": "library"}, SHAPE, True, "no library"),
        ({"name": "resnet18", "pixels": "library"}, SHAPE, False, "other numbers"),
        ({"pixels": [[0.1], [0.2]]}, (5,), None, "other numbers"),
    ],
)
def test_what_has_no_scale_is_refused(settings, shape, pixels, match):
    with pytest.raises(ConfigError, match=match):
        with_pixels(ModelSettings(**settings), shape, pixels)


@pytest.mark.parametrize(
    "value", ["[[0.5], [0]]", "[[0.5], [0.5, 0.5]]", "[[0.5]]", "[[], []]", "'imagenet'"]
)
def test_a_scale_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="model.pixels"):
        load_experiment("digits", [f"model.pixels={value}"])


def test_notes_tell_of_a_scale_that_was_looked_up_or_may_be_wrong(tmp_path):
    path = tmp_path / "w.pth"
    settings = ModelSettings(name="resnet18", weights=str(path))
    assert 'set model.pixels = "library"' in next(pixel_notes(settings, settings, SHAPE))
    asked = ModelSettings(name="resnet18", weights="pretrained")
    assert "0.485" in next(pixel_notes(asked, with_pixels(asked, SHAPE, True), SHAPE))
    (tmp_path / "experiment.toml").write_text(f"[model]\npixels = {NUMBERS}\n")
    assert recorded_pixels(path) == NUMBERS
    assert f"set model.pixels = {NUMBERS}" in next(pixel_notes(settings, settings, SHAPE))
    right = settings.model_copy(update={"pixels": NUMBERS})
    assert list(pixel_notes(right, right, SHAPE)) == []
    (tmp_path / "model.json").write_text(json.dumps({"model": "resnet18"}))
    assert list(pixel_notes(settings, settings, SHAPE)) == []  # exported by fedtl: trained with -1..1


@pytest.mark.slow
def test_a_run_keeps_the_numbers_and_its_models_use_them(tmp_path, monkeypatch):
    from fedtl.experiment import pixels

    scale = PixelScale((0.2,), (0.3,))
    monkeypatch.setattr(pixels, "pixel_scale_of", lambda name, offline=False: scale)
    one = ['data.silos=["plain"]', "rounds=1"]
    result = do(tmp_path / "run", small(*one, "model.pixels=library"))
    folder = RunFolder(tmp_path / "run")
    assert folder.experiment().model.pixels == [[0.2], [0.3]]
    assert any("mean 0.2 and std 0.3" in note for note in result["notes"])
    hooks = SiloModel(folder, "plain").trainer.spec.body._forward_pre_hooks
    assert list(hooks.values()) == [scale]
    given = do(tmp_path / "given", small(*one, "model.pixels=[[0.2], [0.3]]"))
    assert result["silos"] == given["silos"] != do(tmp_path / "plain", small(*one))["silos"]


@pytest.mark.slow
def test_private_training_takes_a_scale(tmp_path):
    one = ['data.silos=["plain"]', "rounds=1", "privacy.epsilon=8", "privacy.tuning=public"]
    result = do(tmp_path / "run", small(*one, "model.pixels=[[0.2], [0.3]]"))
    assert (
        result["privacy"]["silos"]["plain"]["epsilon"] <= 8
        if "silos" in result["privacy"]
        else result["privacy"]
    )


def test_a_hook_gets_what_other_hooks_see_before_it():
    """The audit looks at the rows as they are stored, so its hook comes first."""
    body, seen = nn.Identity(), []
    body.register_forward_pre_hook(IMAGENET)
    body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]), prepend=True)
    x = torch.zeros(1, *SHAPE)
    body(x)
    assert torch.equal(seen[0], x)
