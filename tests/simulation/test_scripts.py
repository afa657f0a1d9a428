"""A plain script that starts workers works, or is told what it lacks."""

import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder

def main(workers):
    experiment = load_experiment("digits", ["rounds=1", "data.limit=40", f"engine.workers={workers}"])
    print("result", sorted(run(experiment, RunFolder.create(Path("out"), experiment)).silos)[0])
"""


def run_script(folder, text):
    (folder / "script.py").write_text(SCRIPT + text)
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_script_without_a_main_guard_gets_an_error_that_names_it(tmp_path):
    """
    Its workers import the script and reach the same call; or they fail before it, at the folder that the parent made.
    """
    done = run_script(tmp_path, "main(2)\n")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fedtl.errors.ConfigError: ")
    assert "script.py" in last
    assert 'if __name__ == "__main__"' in last
    assert "engine.workers = 1" in last


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ['if __name__ == "__main__":\n    main(2)\n', "main(1)\n"], ids=["guard", "one worker"]
)
def test_a_main_guard_or_one_worker_solves_it(tmp_path, call):
    done = run_script(tmp_path, call)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["result blurred"]
