"""A run that was stopped or killed goes on to the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fedtl._util.records import to_plain
from fedtl.experiment import own_models
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.commands import fedtl
from tests.experiment.runs import ENGINES, do, numbers, same, small, tensors
from tests.experiments import MIXED


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("engine", "server", "more"),
    [
        *((name, "{name='mean'}", []) for name in ENGINES),
        ("serial", "{name='adam', lr=0.01}", ["wire.dtype=sign"]),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_numbers(engine, server, more, tmp_path):
    experiment = small("rounds=4", f"method.server={server}", "silos_per_round=4", *ENGINES[engine], *more)
    whole = do(tmp_path / "whole", experiment)

    def stop(one):
        if one.after.round == 2:
            raise Stop

    folder = RunFolder.create(tmp_path / "part", experiment)
    with pytest.raises(Stop):
        run(experiment, folder, progress=stop)
    with (folder.path / "history.jsonl").open("a") as file:
        file.write('{"round": 3, "sil')  # killed while it wrote
    rest = to_plain(run(folder.experiment(), RunFolder.open(folder.path)))
    assert numbers(rest) == numbers(whole)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "part"))
    assert [line.round for line in folder.history()] == [1, 2, 3, 4]
    assert to_plain(run(experiment, folder)) == rest  # a finished run is not run again


def test_own_models_that_are_finished_are_kept_until_the_run_is(tmp_path, monkeypatch):
    """Stopped while silos finish their models: what is trained alone for as long as all rounds is not trained again."""
    experiment = small('data.silos=["plain", "faint", "inverted"]', *MIXED)
    whole = do(tmp_path / "whole", experiment)
    trained, sound = [], own_models.own_model
    monkeypatch.setattr(
        own_models,
        "own_model",
        lambda trainer, silo, task: trained.append(silo.name) or sound(trainer, silo, task),
    )

    def stop(done, silos):
        if done == 2:
            raise Stop

    folder = RunFolder.create(tmp_path / "part", experiment)
    with pytest.raises(Stop):
        run(experiment, folder, finishing=stop)
    assert sorted(path.name for path in folder.path.glob("own/*/*")) == [
        "faint-10.safetensors",
        "inverted-10.safetensors",
    ]
    rest = to_plain(run(folder.experiment(), RunFolder.open(folder.path)))
    assert trained == ["faint", "inverted", "plain"]
    assert numbers(rest) == numbers(whole)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "part"))
    assert not (folder.path / "own").exists()


@pytest.mark.slow
def test_kill_9_at_any_moment(tmp_path):
    """The run in several processes is killed; resumed in one it gives the numbers of one that was never killed."""
    settings = ["rounds=8", "data.limit=40", "method.tune.epochs=2"]
    whole = do(tmp_path / "whole", load_experiment("digits", [*settings, "engine.name=serial"]))
    path = tmp_path / "killed"
    words = ["run", "digits", "--quiet", "--out", str(path)]
    words += [word for setting in settings for word in ("--set", setting)]
    child = subprocess.Popen(
        [sys.executable, "-m", "fedtl", *words], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path / "checkpoint" / "state.pt").exists():
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (path / "result.json").exists()
    done = fedtl("run", "--resume", path, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert numbers(json.loads(done.stdout)) == numbers(whole)
