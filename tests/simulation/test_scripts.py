"""A plain script that starts workers works. One without a main guard is a test of the Python API."""

import subprocess
import sys

import pytest

from fedtl.simulation.worker import failed_script

SCRIPT = """
from pathlib import Path
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder

def main(workers):
    settings = ["rounds=1", "data.limit=40", "method.tune.epochs=0", 'method.choose.candidates=["tuned"]']
    experiment = load_experiment("digits", [*settings, f"engine.workers={workers}"])
    print("result", sorted(run(experiment, RunFolder.create(Path("out"), experiment)).silos)[0])
"""


def run_script(folder, text):
    (folder / "script.py").write_text(SCRIPT + text)
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        pytest.param('if __name__ == "__main__":\n    main(2)\n', id="guard"),
        # The first example of test_api.py is such a script.
        pytest.param("main(1)\n", id="one worker", marks=pytest.mark.nightly),
    ],
)
def test_a_main_guard_or_one_worker_solves_it(tmp_path, call):
    done = run_script(tmp_path, call)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["result blurred"]


def test_a_script_from_standard_input_is_told_to_be_saved(monkeypatch, tmp_path):
    """No guard helps it: worker processes import a file."""
    (tmp_path / "script.py").touch()
    for name, way_out in (("<stdin>", "save it in a file"), (str(tmp_path / "script.py"), "__main__")):
        monkeypatch.setattr(sys.modules["__main__"], "__file__", name, raising=False)
        assert way_out in (failed_script(1) or "")
