"""A user's mistake and a damaged run are one line on stderr with exit code 2."""

import shutil

import numpy as np
import pytest

from tests.cli.runs import SMALL
from tests.commands import fedtl


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "digits", "--set", "round=3"], '"rounds"'),
        (["run", "digits", "--set", "method.name=fedbm"], "'fedbm'"),
        (["run", "digits", "--set", "data.source=npz", "--set", "data.path=nowhere"], "nowhere"),
        (["run", "digits", "--set", "silos_per_round=9"], "silos_per_round"),
        (["run", "nothing.toml"], "nothing.toml"),
        (["run"], "fedtl run needs"),
        (["run", "digits", "--device", "tpu"], "device 'tpu'"),
        (["run", "digits", "--out", "/proc/x/y"], "/proc/x: "),
        (["run", "digits", "--set", "method.tune.name=x"], "method.tune"),
        (["compare", "digits", "--seeds", "a,b"], "--seeds 'a,b'"),
        (["compare", "digits", "--methods", ""], "''"),
        (["run", "digits", "--wrokers", "2"], "No such option"),
        (["run", "digits", "--rounds", "2"], "--set rounds=20"),
        (["run", "--resume", "nowhere"], "nowhere is not"),
        (["compare", "digits", "--methods", "local,nothing"], "'nothing'"),
        (["show", "digits", "--set", "model.name=resnet181"], "resnet181"),
        (["predict", "nowhere", "--silo", "a", "--input", "x.npz"], "nowhere is not"),
        (["report", "nowhere"], "nowhere is not"),
        (["onboard", "nowhere", "--data", "digits"], "nowhere is not"),
        (["onboard", "nowhere", "--data", "digits", "--shots", "1,x"], "--shots '1,x'"),
        (["onboard", "nowhere"], "'--data'"),
    ],
)
def test_user_errors_are_one_line_with_exit_code_2(words, says, tmp_path):
    done = fedtl(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("torchvision's")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert says in errors[0]
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()  # nothing half-written


@pytest.mark.parametrize(
    ("spoil", "command", "says"),
    [
        (lambda run: (run / "result.json").write_text("{"), ["report"], "result.json"),
        (lambda run: (run / "shared.safetensors").write_bytes(b"x"), ["predict"], "shared.safetensors"),
        (lambda run: (run / "silos/plain/local.safetensors").unlink(), ["predict"], "local.safetensors"),
        (lambda run: np.save(run / "new.npy", np.zeros((3, 9, 9), np.uint8)), ["predict"], "(1, 8, 8)"),
        (lambda run: np.save(run / "new.npy", np.zeros(6)), ["predict"], "[6]"),
        (lambda run: np.save(run / "new.npy", np.array(["a"])), ["predict"], "trained on images"),
        (lambda run: np.save(run / "new.npy", np.zeros((0, 8, 8), np.uint8)), ["predict"], "no rows"),
        (lambda run: None, ["predict", "--out", "/nowhere/p.csv"], "/nowhere/p.csv"),
    ],
)  # fmt: skip
def test_damaged_runs_and_wrong_inputs_are_errors_of_one_line(finished, spoil, command, says, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    np.save(run / "new.npy", np.zeros((3, 8, 8), np.uint8))
    spoil(run)
    name, *more = command
    done = fedtl(
        name, run, *(["--silo", "plain", "--input", run / "new.npy"] if name == "predict" else []), *more
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_a_damaged_checkpoint_is_an_error_of_one_line(tmp_path):
    done = fedtl("run", "digits", *SMALL, "--out", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "checkpoint" / "state.pt").write_bytes(b"not a checkpoint")
    done = fedtl("run", "--resume", tmp_path / "run")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "state.pt" in line
