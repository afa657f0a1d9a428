"""Whole runs on a GPU: a stopped one goes on, an export needs no GPU, and an audit of one finds what it finds on a CPU."""

import csv
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fedtl.audit.audit import AuditOptions, audit_run
from fedtl.audit.workload import Effort
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.experiments import ROUNDS_ONLY

SMALL = ['data.silos=["plain", "faint", "inverted"]', "data.limit=40", "engine.name=serial", *ROUNDS_ONLY]


class Stop(Exception):
    pass


def folder_of(path, *settings):
    return RunFolder.create(path, load_experiment("digits", [*SMALL, *settings]))


@pytest.mark.parametrize("stack", [1, 3])
def test_a_stopped_run_goes_on_to_the_same_numbers(device, stack, tmp_path):
    settings = ("rounds=3", f"engine.stack={stack}", "model.name=mlp", "method.name=fedavg")
    whole, part = (folder_of(tmp_path / name, *settings) for name in ("whole", "part"))
    wanted = run(whole.experiment(), whole, "cuda")

    def stop(one):
        if one.after.round == 2:
            raise Stop

    with pytest.raises(Stop):
        run(part.experiment(), part, "cuda", progress=stop)
    found = run(part.experiment(), RunFolder.open(part.path), "cuda")
    assert found.silos.keys() == wanted.silos.keys()
    for one, other in zip(whole.history(), part.history(), strict=True):
        for name, metrics in one.silos.items():
            assert other.silos[name] == pytest.approx(metrics, rel=1e-4)


def test_an_export_of_a_model_of_a_gpu_needs_none(device, tmp_path):
    folder = folder_of(tmp_path / "run", "rounds=1")
    run(folder.experiment(), folder, "cuda")
    model = SiloModel(folder, "plain")
    export_model(model, tmp_path / "out")
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    np.save(tmp_path / "image.npy", image)
    script, file = next((tmp_path / "out").glob("*.py")), tmp_path / "image.npy"
    done = subprocess.run(
        [sys.executable, str(script), str(file)],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert not done.returncode, done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    wanted = torch.as_tensor(model.scores(image)).double().softmax(1)[0].tolist()
    found = [float(value) for name, value in row.items() if name.startswith("p(")]
    assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_an_audit_on_a_gpu_finds_no_violation(device, tmp_path):
    private = ["privacy.epsilon=8", "privacy.tuning=public", "audit.canaries=200", "audit.transcript=2"]
    folder = folder_of(tmp_path / "run", "rounds=2", *private)
    run(folder.experiment(), folder, "cuda")
    options = AuditOptions(
        effort=Effort(references=1, iterations=3, roles=False, planted=False), device="cuda"
    )
    result = audit_run(folder, tmp_path / "audit", options, tmp_path / "key.pem", lambda *_: None)
    assert not result.violations
