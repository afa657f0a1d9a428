"""Counts of any size are trained alike: each silo divides them by their mean, whose logarithm is added to its scores."""

import numpy as np
import pytest
import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.experiment.config.load import load_experiment
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
