"""``[model.settings]``: the parameters of a model's function, checked by their types and used wherever the model is built."""

import numpy as np
import pytest
import torch

from fedtl.deployment.plan import make_agreement
from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.load import load_experiment, parse_experiment, read_experiment, to_toml
from fedtl.experiment.config.resolve import model_of
from fedtl.experiment.lint.findings import lint
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.models.registry import model_spec

SMALL = ["data.silos=['plain','faint']", "data.limit=0", "rounds=1", "engine.name=serial"]


def shapes(name, shape, settings):
    experiment = load_experiment("digits", [f"model.name={name}", f"model.settings={settings}"])
    state = model_of(experiment.model, shape, 0).net(3).state_dict()
    return [
        tuple(tensor.shape) for key, tensor in state.items() if key.endswith("weight") and tensor.dim() > 1
    ]


@pytest.mark.parametrize(
    ("name", "shape", "settings", "expected"),
    [
        ("mlp", (5,), "{width=16,layers=3}", [(16, 5), (16, 16), (16, 16), (3, 16)]),
        ("mlp", (5,), "{layers=1}", [(64, 5), (3, 64)]),
        ("mlp", (5,), "{}", [(64, 5), (64, 64), (3, 64)]),
        ("convnet", (1, 8, 8), "{widths=[4,6,10]}", [(4, 1, 3, 3), (6, 4, 3, 3), (10, 6, 3, 3), (3, 10)]),
        (
            "convnet_gn",
            (1, 8, 8),
            "{widths=[8,16,24]}",
            [(8, 1, 3, 3), (16, 8, 3, 3), (24, 16, 3, 3), (3, 24)],
        ),
    ],
)
def test_settings_change_the_layers(name, shape, settings, expected):
    assert shapes(name, shape, settings) == expected


@pytest.mark.parametrize("name", ["mlp", "convnet", "convnet_gn"])
def test_the_defaults_written_out_give_the_same_weights(name):
    settings = {"mlp": {"width": 64, "layers": 2}}.get(name, {"widths": (32, 64, 64)})
    plain = model_spec(name, (1, 8, 8), 0).net(3).state_dict()
    written = model_spec(name, (1, 8, 8), 0, settings=settings).net(3).state_dict()
    assert plain.keys() == written.keys()
    assert all(torch.equal(plain[key], written[key]) for key in plain)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["model.name=mlp", "model.settings={wide=8}"], "model.settings.wide"),
        (["model.name=mlp", "model.settings={shape=[5]}"], "model.settings.shape"),
        (["model.name=mlp", "model.settings={width='8'}"], "model.settings.width"),
        (["model.name=mlp", "model.settings={width=0}"], "model.settings.width"),
        (["model.name=mlp", "model.settings={width=true}"], "model.settings.width"),
        (["model.name=convnet", "model.settings={widths=[8,8]}"], "model.settings.widths"),
        (["model.name=digitmodel", "model.settings={width=8}"], "model.settings.width"),
        (["model.name=resnet18", "model.settings={width=8}"], "model.settings"),
    ],
)
def test_settings_that_a_model_does_not_take_are_refused(sets, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load_experiment("digits", sets)
    assert "\n" not in str(caught.value)
    assert any(says in line for line in lint(read_experiment("digits", [*sets, *SMALL])).unsound)


def test_group_norm_needs_widths_in_groups():
    experiment = load_experiment("digits", ["model.name=convnet_gn", "model.settings={widths=[8,12,16]}"])
    with pytest.raises(ModelError, match="multiples of 8"):
        model_of(experiment.model, (1, 8, 8), 0)


def test_a_run_folder_and_a_plan_keep_the_settings(tmp_path):
    experiment = load_experiment("digits", [*SMALL, "model.name=mlp", "model.settings={width=8,layers=1}"])
    folder = RunFolder.create(tmp_path / "run", experiment)
    run(experiment, folder)
    assert folder.experiment().model.settings == {"width": 8, "layers": 1}
    model = SiloModel(folder, "plain")
    assert {net.head.in_features for net in model.nets().values()} == {8}
    assert model.scores(np.zeros((2, 8, 8), np.uint8)).shape == (2, 10)
    assert "width = 8" in to_toml(experiment)
    assert make_agreement(experiment, (64,), ("0", "1"), "", False).experiment.model.settings == {
        "width": 8,
        "layers": 1,
    }


def test_a_run_folder_with_dealt_silos_can_be_read_again(tmp_path):
    """Its experiment.toml has every key of data.deal, also those of other ways to deal."""
    (tmp_path / "one.npz").touch()
    first = parse_experiment({"data": {"source": "npz", "path": str(tmp_path), "deal": {"silos": 3}}})
    assert RunFolder.create(tmp_path / "run", first).experiment() == first
