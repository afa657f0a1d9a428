"""Silos of 12 to 31 rows pass every default: one label only, empty columns, validation of two rows, batches of two."""

import math

import numpy as np
import pandas as pd
import pytest

from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("hospitals"), np.random.default_rng(0)
    for name, rows in {"few": 12, "one-label": 30, "gaps": 31, "plain": 30}.items():
        frame = pd.DataFrame(rng.normal(size=(rows, 4)), columns=list("abcd"))
        frame["label"] = (frame.a + rng.logistic(size=rows) > 0).astype(int)
        if name == "one-label":
            frame["label"] = 1
        if name == "gaps":
            frame["b"], frame["c"] = np.nan, 1.0
            frame.loc[::3, "d"] = np.nan
        frame.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("method", "batch"),
    [(name, 4) for name in ("local", "pooled", "fedavg", "fedbn", "fedtl", "mrmtl")] + [("fedtl", 32)],
)
def test_every_silo_gets_a_model_and_finite_results(method, batch, hospitals, tmp_path):
    sets = ["data.source=table", f"data.path={hospitals}", "data.limit=0", "model.name=mlp", "rounds=2"]
    sets += [f"method.name={method}", f"train.batch_size={batch}", "engine.name=serial"]
    folder = RunFolder.create(tmp_path / "run", load_experiment("digits", sets))
    result = run(folder.experiment(), folder)
    assert result.silos.keys() == {"few", "one-label", "gaps", "plain"}
    assert not result.left_out
    for silo in result.silos.values():
        assert silo.test > 0
        assert all(math.isfinite(value) for value in silo.measured.figures.values())
        assert 0 <= silo.measured.figures["accuracy"] <= 1
    assert "one-label: '1'" in " ".join(result.notes)
    if method == "local":
        assert result.silos["one-label"].measured.figures["accuracy"] == 1
