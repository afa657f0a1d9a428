"""Counts of any size are trained alike: each silo divides them by their mean, whose logarithm is added to its scores."""

import numpy as np
import pytest
import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.origins import Origin
from fedtl.data.preprocess import fit_inputs
from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError, ConstantsError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.data_notes import data_notes
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.tasks.counts import Counts

TASK = Counts()


def silo_of(scale):
    nothing = Dataset(torch.empty(0), torch.empty(0))
    return SiloDataset(nothing, nothing, (), y_std=scale, task=TASK)


def test_scores_in_the_unit_of_the_labels_are_logarithms_of_counts():
    """With s = log(m / scale), exp(s) y_std = m; and the gradient of the training loss is that of the counts, over their mean."""
    y, scale = torch.tensor([0.0, 800.0, 1200.0]), 1000.0
    data = silo_of(scale)
    s = torch.zeros(3, 1, requires_grad=True)
    TASK.losses(s, data.scaled(y)).sum().backward()
    in_unit = data.in_label_unit(s.detach()).requires_grad_()
    TASK.losses(in_unit, y.double()).sum().backward()
    np.testing.assert_allclose(s.grad, in_unit.grad / scale, rtol=1e-5)
    np.testing.assert_allclose(in_unit.detach().exp(), np.full((3, 1), scale), rtol=1e-9)


def trained(folder, factor):
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    for silo in "ab":
        x = rng.normal(size=120)
        counts = rng.poisson(20 * np.exp(0.8 * x)) * factor
        rows = [f"{one:.4f},{count}" for one, count in zip(x, counts, strict=True)]
        (folder / "data" / f"{silo}.csv").write_text("\n".join(["x,label", *rows]) + "\n")
    sets = [
        *("data.source=table", "data.task=counts", f"data.path={folder / 'data'}", "model.name=linear"),
        *("rounds=4", "engine.name=serial", "method.tune.epochs=0", "train.lr=0.05"),
    ]
    done = RunFolder.create(folder / "run", load_experiment("digits", ["data.silos=[]", *sets]))
    run(done.experiment(), done)
    return done.read_json("result.json")["silos"]["a"], done.read_json("result.json")["notes"]


def test_the_unit_of_counts_does_not_matter_to_what_is_learned(tmp_path):
    (ones, notes), (thousands, more) = trained(tmp_path / "1", 1), trained(tmp_path / "1000", 1000)
    assert thousands["rmse"] == pytest.approx(1000 * ones["rmse"], rel=1e-3)
    assert ones["d2"] > 0.5
    assert thousands["d2"] == pytest.approx(ones["d2"], abs=1e-3)
    assert not [note for note in notes + more if "mean count" in note]


def settings_of(tmp_path, **keys):
    (tmp_path / "scale.toml").write_text('["*"]\nmean = 0\nstd = 1\n[label]\nmean = 20\nstd = 1\n')
    return DataSettings(source="table", path=str(tmp_path), task="counts", **keys)


COUNTS = np.array([10.0, 20.0, 60.0])


@pytest.mark.parametrize(
    ("keys", "unit"),
    [
        ({"scale": "silo"}, 30.0),
        ({"scale": "none"}, 1.0),
        ({"scale": "scale.toml"}, 20.0),
        ({"scale": "scale.toml", "label": "other"}, 1.0),  # "*" stands for columns of inputs
        ({"scale": "dp", "bounds": {"*": [0, 1], "label": [0, 100, 25]}}, 25.0),
        ({"scale": "dp", "bounds": {"*": [0, 1], "label": [0, 100]}}, 50.0),
        ({"scale": "dp", "bounds": {"*": [0, 1]}}, 1.0),
    ],
)
def test_counts_are_divided_by_the_mean_or_by_what_is_declared(keys, unit, tmp_path):
    if keys["scale"] == "scale.toml":
        keys = keys | {"scale": str(tmp_path / "scale.toml")}
    made = settings_of(tmp_path, **keys)
    if keys.get("label") == "other":
        (tmp_path / "scale.toml").write_text('["*"]\nmean = 7\nstd = 1\n')
    inputs = fit_inputs(np.zeros((3, 1)), COUNTS, ("x",), made, "a")
    assert inputs.y_std == unit
    assert (inputs.label_origin is Origin.LEARNED) == (keys["scale"] == "silo")


def test_a_declared_count_that_is_not_above_zero_is_refused(tmp_path):
    bounds = {"*": [0, 1], "label": [-5, 5]}
    with pytest.raises(ConfigError, match=r"data.bounds.label: .*which is 0"):
        fit_inputs(np.zeros((3, 1)), COUNTS, ("x",), settings_of(tmp_path, scale="dp", bounds=bounds), "a")
    scale = {"scale": str(tmp_path / "scale.toml"), "label": "zero"}
    (tmp_path / "scale.toml").write_text('["*"]\nmean = 0\nstd = 1\n[zero]\nmean = 0\nstd = 1\n')
    with pytest.raises(ConstantsError, match=r"\[zero\], which is 0"):
        fit_inputs(np.zeros((3, 1)), COUNTS, ("x",), DataSettings(task="counts", **scale), "a")


@pytest.mark.parametrize(
    ("bounds", "noted"), [('{"*"=[0,1]}', True), ('{"*"=[0,1],label=[0,100,20]}', False)]
)
def test_private_counts_without_a_declared_one_are_noted(bounds, noted, tmp_path):
    (tmp_path / "data").mkdir()
    for silo in "ab":
        rows = [f"{row / 40},{row % 7}" for row in range(40)]
        (tmp_path / "data" / f"{silo}.csv").write_text("\n".join(["x,label", *rows]) + "\n")
    sets = [
        *("data.source=table", "data.task=counts", f"data.path={tmp_path / 'data'}", "model.name=linear"),
        *("data.scale=dp", f"data.bounds={bounds}", "privacy.epsilon=3", "privacy.delta=1e-4", "rounds=1"),
    ]
    experiment = load_experiment("digits", ["data.silos=[]", "data.late=[]", *sets])
    notes = list(data_notes(experiment, method_of(experiment.method), read_data_schema(experiment)))
    assert any("a usual count" in note for note in notes) == noted
