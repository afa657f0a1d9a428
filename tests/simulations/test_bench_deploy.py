"""The benchmark of a deployment: both contenders send the same tensors, and its verdicts. Times are not judged here."""

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedtl.models.registry import model_spec

BENCH = Path(__file__).parents[2] / "simulations" / "bench"


@pytest.fixture
def deploy(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import deploy

    yield deploy
    for path in BENCH.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_flower_alone_sends_the_tensors_of_fedtl(deploy, monkeypatch):
    load = deploy.LOADS["tiny"]
    monkeypatch.setenv("FEDTL_BENCH", json.dumps({"model": load.model, "shape": load.shape}))
    monkeypatch.syspath_prepend(str(BENCH / "flower_app"))
    for name in [name for name in sys.modules if name == "clients" or name.startswith("clients.")]:
        monkeypatch.delitem(sys.modules, name)
    from clients.app import floats, make_model

    ours = model_spec("mlp", load.shape, seed=0).net(10).state_dict()
    shapes = sorted(tuple(tensor.shape) for tensor in ours.values() if tensor.is_floating_point())
    assert sorted(tuple(tensor.shape) for tensor in floats(make_model()).values()) == shapes
    for name in ("clients", "clients.app"):
        sys.modules.pop(name, None)


def test_a_bar_is_met_only_with_the_bits_of_the_simulation(deploy):
    measured = [
        deploy.Measured("tiny", "fedtl", [1.0, 2.0, 9.0], {}, True),
        deploy.Measured("tiny", "Flower alone", [8.0], {}),
        deploy.Measured("light", "fedtl", [1.0], {}, False),
        deploy.Measured("resnet18", "fedtl", [16.0], {}, True),
    ]
    tiny, light, resnet = deploy.verdicts(measured)
    assert (tiny["seconds"], tiny["met"], tiny["ratio_to_flower"]) == (2.0, True, 0.25)
    assert (light["met"], light["ratio_to_flower"]) == (False, None)
    assert resnet["met"] is False


def test_every_site_has_rows_of_its_own(deploy, tmp_path):
    load = deploy.LOADS["light"]
    deploy.write_rows(load, tmp_path / "rows")
    files = sorted((tmp_path / "rows").iterdir())
    assert [path.stem for path in files] == load.names()
    first, second = (np.load(path)["train_x"] for path in files[:2])
    assert first.shape == (load.rows, 8, 8, 1)
    assert not np.array_equal(first, second)


def test_the_app_of_flower_alone_can_be_packed(deploy, tmp_path):
    packed = deploy.deploy_flower._fab(tmp_path / "app")
    with zipfile.ZipFile(io.BytesIO(packed)) as fab:
        assert {"server/app.py", "clients/app.py", "pyproject.toml"} <= set(fab.namelist())
