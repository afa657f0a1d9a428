"""Whole runs: engines agree to the bit, resume gives the same numbers, test rows are read once and at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fedtl._util.records import to_plain
from fedtl.data import prepare
from fedtl.errors import ConfigError, DataError, NotEnoughSilos
from fedtl.experiment import run as study
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.federation.round_log import RoundLog
from fedtl.methods.registry import METHODS
from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from tests.commands import fedtl
from tests.experiments import ROUNDS_ONLY

SMALL = ["rounds=2", "data.limit=40", "engine.name=serial", *ROUNDS_ONLY]
ENGINES = {
    "serial": ["engine.name=serial"],
    "processes": ["engine.name=processes", "engine.workers=3"],
    "stacked": ["engine.name=serial", "engine.stack=3"],
}
NEED_TARGET = [name for name, make in METHODS.items() if make().needs_target]


def small(*overrides):
    settings = {override.partition("=")[0]: override for override in (*SMALL, *overrides)}
    return load_experiment("digits", list(settings.values()))


def do(path, experiment):
    return to_plain(run(experiment, RunFolder.create(path, experiment)))


def own_validation(path, silo):
    return RunFolder(path).read_json(f"silos/{silo}/validation.json")


def numbers(result):
    return {key: value for key, value in result.items() if key not in ("seconds", "workers")}


def tensors(path):
    return {str(file.relative_to(path)): load_file(file) for file in sorted(path.rglob("*.safetensors"))}


def same(a, b):
    return a.keys() == b.keys() and all(
        a[f].keys() == b[f].keys() and all(torch.equal(a[f][n], b[f][n]) for n in a[f]) for f in a
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_and_writes_its_folder(name, tmp_path):
    extra = ["data.target_domain=inverted"] if name in NEED_TARGET else []
    result = do(tmp_path, small(f"method.name={name}", *extra))
    assert set(result["silos"]) == {"plain", "inverted", "blurred", "faint", "rotated", "textured"}
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2
    for name in result["silos"]:
        assert (tmp_path / "silos" / name / "local.safetensors").exists()
    assert result["worst"]["accuracy"] == min(its["accuracy"] for its in result["silos"].values())
    assert result["mean"]["accuracy"] == pytest.approx(
        sum(s["accuracy"] for s in result["silos"].values()) / 6
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedtl", "fedavg", "fedrep"])
def test_processes_give_the_bits_of_serial(method, tmp_path):
    tuned = ["method.tune.epochs=2", 'method.choose.candidates=["own", "tuned"]'] if method == "fedtl" else []
    one = do(tmp_path / "serial", small(f"method.name={method}", *tuned))
    for workers in (2, 3) if method == "fedrep" else (2,):
        path = tmp_path / str(workers)
        engine = ["engine.name=processes", f"engine.workers={workers}"]
        many = do(path, small(f"method.name={method}", *tuned, *engine))
        assert many["workers"] == workers
        assert numbers(many) == numbers(one)
        assert same(tensors(tmp_path / "serial"), tensors(path))


@pytest.mark.parametrize("method", ["fedtl", "fedavg", "fedrep", "local"])
def test_a_stack_gives_the_numbers_of_serial(method, tmp_path):
    """Within rounding, over two rounds; which of the silos' test rows are right is the same."""
    one = do(tmp_path / "serial", small(f"method.name={method}"))
    other = do(tmp_path / "stack", small(f"method.name={method}", "engine.stack=4"))
    for name, its in one["silos"].items():
        mine, theirs = (own_validation(tmp_path / room, name) for room in ("serial", "stack"))
        assert theirs == pytest.approx(mine, rel=1e-3)
        mine, theirs = (run["silos"][name].pop("refitted", {}) for run in (one, other))
        assert theirs.pop("absent", {}) == mine.pop("absent", {})
        assert theirs == pytest.approx(mine, rel=1e-3)
        assert other["silos"][name].pop("absent") == its.pop("absent")
        assert other["silos"][name] == pytest.approx(its, rel=1e-3)
    wanted, found = tensors(tmp_path / "serial"), tensors(tmp_path / "stack")
    assert not same(wanted, found)  # or it was serial
    for file, state in wanted.items():
        for name in state.keys() & found[file].keys():
            torch.testing.assert_close(found[file][name], state[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_order_in_which_silos_answer_does_not_matter(engine, tmp_path, monkeypatch):
    one = do(tmp_path / "a", small(*ENGINES[engine]))
    for kind in (Serial, Processes, Stacked):
        each = kind.each
        monkeypatch.setattr(
            kind, "each", lambda self, job, silos, each=each: reversed(list(each(self, job, silos)))
        )
    other = do(tmp_path / "b", small(*ENGINES[engine]))
    assert numbers(one) == numbers(other)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_another_seed_is_another_run(tmp_path):
    assert numbers(do(tmp_path / "a", small())) != numbers(do(tmp_path / "b", small("seed=1")))


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("engine", "server"),
    [*((name, "{name='mean'}") for name in ENGINES), ("serial", "{name='adam', lr=0.01}")],
)
def test_a_stopped_run_goes_on_to_the_same_numbers(engine, server, tmp_path):
    experiment = small("rounds=4", f"method.server={server}", "silos_per_round=4", *ENGINES[engine])
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


def test_test_rows_are_opened_once_and_after_the_last_round(tmp_path, monkeypatch):
    events = []
    opened, appended = study._evaluation_set, RoundLog.append
    monkeypatch.setattr(
        study, "_evaluation_set", lambda data, name: events.append(name) or opened(data, name)
    )
    monkeypatch.setattr(
        RoundLog, "append", lambda self, line: events.append(line.round) or appended(self, line)
    )
    do(tmp_path, small())
    assert events[:2] == [1, 2]
    assert sorted(events[2:]) == ["blurred", "faint", "inverted", "plain", "rotated", "textured"]


@pytest.mark.parametrize("method", ["fedtl", "fedavg", "fedbabu"])
def test_other_test_rows_change_nothing_but_the_test_figures(method, tmp_path, monkeypatch):
    experiment = small(f"method.name={method}")
    honest = do(tmp_path / "a", experiment)
    split = prepare.split_rows

    def spoilt(raw, *rest):
        raw, ids = split(raw, *rest)
        return replace(raw, test=replace(raw.test, x=255 - raw.test.x, y=raw.test.y[::-1].copy())), ids

    monkeypatch.setattr(prepare, "split_rows", spoilt)
    other = do(tmp_path / "b", experiment)
    assert honest["mean"] != other["mean"]
    for name in honest["silos"]:
        assert own_validation(tmp_path / "a", name) == own_validation(tmp_path / "b", name)
        mine, its = (load_file(tmp_path / side / "silos" / name / "local.safetensors") for side in "ab")
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine)
    assert [line.silos for line in RunFolder(tmp_path / "a").history()] == [
        line.silos for line in RunFolder(tmp_path / "b").history()
    ]


def test_silos_with_other_label_sets_have_heads_of_their_own(tmp_path, monkeypatch):
    """Every silo keeps only the digits of its own, from a source that declares no classes; a local head has as many outputs."""
    read, digits = prepare.read_silo, prepare.DATA["digits"]
    monkeypatch.setitem(prepare.DATA.own, "digits", replace(digits, classes=()))

    def few(settings, name):
        raw = read(settings, name)
        kept = raw.train.y < (4 if name == "plain" else 10)
        return replace(raw, train=replace(raw.train, x=raw.train.x[kept], y=raw.train.y[kept]))

    monkeypatch.setattr(prepare, "read_silo", few)
    do(tmp_path / "own", small())
    assert load_file(tmp_path / "own/silos/plain/local.safetensors")["head.weight"].shape[0] == 4
    assert load_file(tmp_path / "own/silos/faint/local.safetensors")["head.weight"].shape[0] == 10
    do(tmp_path / "shared", small("method.name=fedavg"))
    assert load_file(tmp_path / "shared/shared.safetensors")["head.weight"].shape[0] == 10


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        ("fedavg", {"as_received", "adabn", "alone"}),
        ("silobn", {"as_received", "adabn", "alone"}),
        ("fedtl", {"head", "head_adabn", "ridge_adabn", "alone"}),
        ("ridge", {"ridge_adabn", "alone"}),
        ("local", {"alone"}),
    ],
)
def test_a_late_silo_does_not_train_and_has_rows_of_its_own(method, rows, tmp_path):
    result = do(tmp_path, small(f"method.name={method}", "data.late=['faint']", "data.shots=3"))
    assert "faint" not in result["silos"]
    assert set(result["late"]["faint"]) == rows
    assert all("faint" not in line.silos for line in RunFolder(tmp_path).history())


def test_adabn_helps_a_late_silo_whose_scanner_is_another(tmp_path):
    result = do(
        tmp_path,
        load_experiment(
            "digits", ["rounds=15", "engine.name=serial", "method.name=silobn", "data.late=['faint']"]
        ),
    )
    late = result["late"]["faint"]
    assert late["adabn"]["accuracy"] > late["as_received"]["accuracy"] + 0.2


def test_pretraining_moves_the_start_and_the_public_silo_stays_out(tmp_path):
    result = do(
        tmp_path,
        small("model.pretrain_on=['plain']", "model.pretrain_epochs=3", "rounds=1", "train.body_lr=0.0"),
    )
    assert "plain" not in result["silos"]
    start = load_file(tmp_path / "pretrained.safetensors")
    shared = load_file(tmp_path / "shared.safetensors")
    name = "body.features.0.weight"
    assert torch.allclose(shared[name], start[name], atol=1e-6)
    scratch = do(tmp_path / "scratch", small("rounds=1", "train.body_lr=0.0"))
    assert scratch["rounds"] == 1
    assert not torch.allclose(
        load_file(tmp_path / "scratch/shared.safetensors")[name], start[name], atol=1e-3
    )


def test_weights_of_a_run_start_another(tmp_path):
    do(tmp_path / "first", small("method.name=fedavg"))
    file = tmp_path / "first" / "shared.safetensors"
    do(
        tmp_path / "second",
        small(
            "method.name=fedavg", f"model.weights={file}", "train.lr=1e-30", "rounds=1", "train.momentum=0.0"
        ),
    )
    first, second = load_file(file), load_file(tmp_path / "second" / "shared.safetensors")
    name = "body.features.0.weight"
    assert torch.allclose(first[name], second[name])


def test_the_unlabelled_domain_is_reported_with_and_without_adabn(tmp_path):
    result = do(tmp_path, small("method.name=coral", "data.target_domain=inverted"))
    for figures in result["silos"].values():
        assert {"accuracy", "loss"} <= figures["target"].keys()
        assert {"accuracy", "loss"} <= figures["target_adabn"].keys()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["silos_per_round=7"], "only 6 silos train"),
        (["minimum_silos=7"], "only 6 silos train"),
        (["data.silos=['plane']"], "there is no silo 'plane'"),
        (["data.late=['plane']"], "there is no silo 'plane'"),
        (["model.name=resnet5000"], "is not one of convnet"),
        (["model.freeze=9"], "has 3 stages"),
        (["model.pretrain_on=['nobody']"], "there is no silo 'nobody'"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(overrides, says, tmp_path):
    from fedtl.errors import UserError

    with pytest.raises(UserError, match=says) as caught:
        do(tmp_path, small(*overrides))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "history.jsonl").exists()


def test_images_of_other_sizes_need_a_size(tmp_path):
    import numpy as np

    for name, px in (("a", 8), ("b", 10)):
        y = np.arange(40) % 2
        np.savez(tmp_path / f"{name}.npz", train_x=np.zeros((40, px, px), np.uint8), train_y=y)
    experiment = load_experiment(
        "digits", ["data.source=npz", f"data.path={tmp_path}", "rounds=1", "engine.name=serial"]
    )
    with pytest.raises(DataError, match=r"silo b .*1, 10, 10.*data\.size"):
        do(tmp_path / "out", experiment)
    do(
        tmp_path / "out2",
        load_experiment(
            "digits",
            ["data.source=npz", f"data.path={tmp_path}", "rounds=1", "data.size=8", "engine.name=serial"],
        ),
    )


def test_training_that_diverges_ends_with_too_few_silos(tmp_path):
    with pytest.raises(NotEnoughSilos, match="not finite"):
        do(tmp_path, small("train.lr=1e30"))


def test_a_used_folder_is_refused(tmp_path):
    do(tmp_path, small("rounds=1"))
    with pytest.raises(ConfigError, match="is not empty"):
        RunFolder.create(tmp_path, small())


def test_pooled_trains_on_everybodys_rows(tmp_path):
    do(tmp_path, small("method.name=pooled"))
    assert [list(line.silos) for line in RunFolder(tmp_path).history()] == [["pooled"]] * 2
