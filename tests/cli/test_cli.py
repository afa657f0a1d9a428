"""The fedtl command: exit codes, errors of one line, JSON output, and the use of a finished run."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from fedtl.cli import main

SMALL = ["--set", "rounds=2", "--set", "data.limit=40", "--set", "engine.name=serial"]


def fedtl(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "fedtl", *map(str, words)], capture_output=True, text=True, timeout=300, **more
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    done = fedtl("run", "digits", *SMALL, "--out", path)
    assert done.returncode == 0, done.stderr
    return path, done


def test_a_run_prints_every_silo_and_the_report(finished):
    path, done = finished
    for name in ("plain", "inverted", "blurred", "faint", "rotated", "textured"):
        assert name in done.stdout
    assert f"report: {path / 'report.html'}" in done.stderr
    page = (path / "report.html").read_text()
    assert "<svg" in page
    assert "<script" not in page


@pytest.mark.parametrize("command", [["methods"], ["models"], ["data"], ["show", "digits"]])
def test_json_output_is_only_json(command):
    done = fedtl(*command, "--json")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert fedtl(*command).returncode == 0


def test_show_prints_the_privacy_guarantee_of_each_silo():
    done = fedtl("show", "digits", "--json", "--set", "privacy.epsilon=3", "--set", "privacy.statistics=dp")
    its = json.loads(done.stdout)["privacy"]["silos"]["faint"]
    assert 2.9 < its["epsilon"] <= 3.0 < its["epsilon_replace_one"]
    assert (its["units"], its["rounds"], its["steps_a_round"]) == (100, 40, 4)
    assert its["statistics_expected_noise"] > 0.5
    assert its["adjacency"] == "zero-out of one record, their number is public"
    shown = " ".join(fedtl("show", "digits", "--set", "privacy.epsilon=3").stdout.split())
    assert "epsilon: zero-out" in shown
    assert "for replace-one adjacency" in shown


def test_show_lists_every_refusal_with_its_reason():
    wrong = ["privacy.epsilon=3", "engine.stack=4", "privacy.delta=0.5", "silo.nobody.privacy.epsilon=1"]
    words = [word for setting in wrong for word in ("--set", setting)]
    done = fedtl("show", "digits", "--json", *words)
    assert done.returncode == 2
    shown = json.loads(done.stdout)
    refused = " ".join(shown["refused"])
    assert "engine.stack = 4" in refused
    assert "faint: privacy.delta = 0.5" in refused
    assert "silo.nobody" in refused
    assert "body.features.1.norm (FixedNorm)" in refused  # the layer, if only one is at fault
    assert shown["privacy"]["silos"] == {}
    assert {row["name"]: row["leaves"] for row in shown["tensors"]}["head.weight"] is False
    assert fedtl("show", "digits", *words).stderr.count("refused: ") == len(shown["refused"])
    assert json.loads(fedtl("show", "digits", "--json").stdout)["refused"] == []


def test_lint_lists_all_findings_and_exits_2_if_one_is_unsound():
    wrong = ["--set", "privacy.epsilon=1", "--set", "model.dtype=bf16", "--set", "method.name=local"]
    done = fedtl("lint", "digits", *wrong)
    assert done.returncode == 2
    assert done.stdout.count("unsound: ") == 2
    assert "ask: privacy.tuning" in done.stdout
    assert fedtl("lint", "digits", *wrong[:2]).returncode == 0
    assert fedtl("lint", "digits").returncode == 0


def test_show_lists_every_tensor_with_its_role_and_whether_it_leaves():
    shown = json.loads(fedtl("show", "digits", "--json").stdout)
    leaves = {tensor["role"]: tensor["leaves"] for tensor in shown["tensors"]}
    assert leaves == {"body": True, "norm": True, "stats": False, "count": False, "head": False}
    leaving = sum(tensor["bytes"] for tensor in shown["tensors"] if tensor["leaves"])
    assert shown["bytes_up"] == leaving == 4 * (9 * 32 + 9 * 32 * 64 + 9 * 64 * 64 + 2 * (32 + 64 + 64))
    assert shown["privacy"] is None


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


def test_without_a_command_there_is_help_and_with_version_a_version():
    done = fedtl()
    assert (done.returncode, done.stderr) == (2, "")
    assert "compare digits" in done.stdout
    assert re.fullmatch(r"fedtl \d+\.\d+\.\d+\n", fedtl("--version").stdout)


def test_too_few_silos_is_exit_4(tmp_path):
    done = fedtl("run", "digits", *SMALL, "--set", "train.lr=1e30", "--out", tmp_path / "run")
    assert done.returncode == 4
    assert "minimum_silos" in done.stderr


def test_predictions_equal_those_on_the_test_rows(finished, tmp_path):
    path, _ = finished
    from sklearn.datasets import load_digits

    from fedtl.data import digits
    from fedtl.data.parts import split_rows
    from fedtl.data.settings import DataSettings

    raw, _ = split_rows(digits.read(DataSettings(), "faint"), DataSettings(limit=40), "faint", 0)
    np.savez(tmp_path / "new.npz", x=raw.test.x)
    done = fedtl("predict", path, "--silo", "faint", "--input", tmp_path / "new.npz", "--json")
    assert done.returncode == 0, done.stderr
    kept = load_file(path / "silos" / "faint" / "test.safetensors")
    said = [int(line["prediction"]) for line in json.loads(done.stdout)]
    assert said == kept["scores"].argmax(1).tolist()
    assert len(load_digits().target) == 1797
    written = fedtl(
        "predict", path, "--silo", "faint", "--input", tmp_path / "new.npz", "--out", tmp_path / "out.csv"
    )
    assert written.returncode == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == len(said) + 1
    wrong = fedtl("predict", path, "--silo", "nobody", "--input", tmp_path / "new.npz")
    assert (wrong.returncode, "nobody" in wrong.stderr) == (2, True)


def test_the_exported_model_is_an_ordinary_one(finished, tmp_path):
    path, _ = finished
    done = fedtl("export", path, "--silo", "faint", "--out", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    from fedtl.models.builtin import convnet

    model, _ = convnet((1, 8, 8))
    model.classifier = torch.nn.Linear(64, 10)
    model.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"))
    kept = load_file(path / "silos" / "faint" / "test.safetensors")

    from fedtl.data import digits
    from fedtl.data.parts import split_rows
    from fedtl.data.settings import DataSettings

    raw, _ = split_rows(digits.read(DataSettings(), "faint"), DataSettings(limit=40), "faint", 0)
    x = torch.from_numpy(raw.test.x)[:, None].float() / 127.5 - 1
    with torch.no_grad():
        scores = model.eval()(x)
    assert torch.allclose(scores, kept["scores"], atol=1e-4)
    onnx = pytest.importorskip("onnx.reference")
    (answer,) = onnx.ReferenceEvaluator(str(tmp_path / "model" / "model.onnx")).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(answer, kept["scores"].numpy(), atol=1e-4)


def enable_ctrl_c():
    """Handle SIGINT as in a terminal: a shell ignores it in background processes, and child processes inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def press_ctrl_c(child):
    """Send SIGINT up to 10 times, because an import may ignore one. A shell shows both return codes as 130."""
    for _ in range(10):
        os.killpg(child.pid, signal.SIGINT)
        try:
            _, errors = child.communicate(timeout=6)
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        child.kill()
        _, errors = child.communicate()
    assert child.returncode in (130, -signal.SIGINT), errors
    return errors


@pytest.mark.slow
def test_ctrl_c_is_exit_130_and_resumable(tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-m", "fedtl", "run", "digits", "--set", "rounds=500", "--out", str(path)]
    child = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=enable_ctrl_c,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path / "checkpoint" / "state.pt").exists():
        time.sleep(0.05)
    errors = press_ctrl_c(child)
    assert f"fedtl run --resume {path}" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_ctrl_c_before_the_first_round_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "fedtl", "run", "digits", "--set", "train.epochs=9999"]
    child = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=enable_ctrl_c,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("runs/*/experiment.toml")):
        time.sleep(0.05)
    errors = press_ctrl_c(child)
    assert errors.startswith("interrupted; ")
    assert "--resume" not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupted_comparison_resumes_to_the_same_result(tmp_path):
    words = ["--methods", "local,fedtl", "--seeds", "0,1", *SMALL[:4]]
    done = fedtl("compare", "digits", *words, "--json", "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    assert set(whole["benefit"]) == {"plain", "inverted", "blurred", "faint", "rotated", "textured"}
    assert all(its["best"] == "fedtl" for its in whole["benefit"].values())

    child = subprocess.Popen(
        [sys.executable, "-m", "fedtl", "compare", "digits", *words, "--out", str(tmp_path / "b")],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "b").glob("runs/*/checkpoint/state.pt")):
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    rest = fedtl("compare", "--resume", tmp_path / "b", "--json")
    assert rest.returncode == 0, rest.stderr
    again = json.loads(rest.stdout)
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in whole.items() if k != "seconds"
    }
    assert fedtl("report", tmp_path / "b").returncode == 0


COMMANDS = typer.main.get_command(main.app)


def leaf_commands(group=COMMANDS, words=()):
    """Every command that is not a group, by its words."""
    for name, command in group.commands.items():
        path = (*words, name)
        if hasattr(command, "commands"):
            yield from leaf_commands(command, path)
        else:
            yield path, command


LEAVES = dict(leaf_commands())


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_the_help_of_every_command_shows_an_example_that_its_parser_accepts(words):
    command = LEAVES[words]
    (example,) = re.findall(r"Example: fedtl (.*)", command.help)
    given = shlex.split(example)
    assert tuple(given[: len(words)]) == words
    command.make_context(
        " ".join(words), given[len(words) :]
    )  # raises for an unknown option or a missing argument


def test_help_keeps_square_brackets():
    """rich reads [name] as markup and would drop it."""
    for words in ("audit", "show"):
        result = CliRunner().invoke(main.app, [words, "--help"])
        assert re.search(r"\[(audit|privacy)\]", result.output), result.output


def test_help_is_quick_and_needs_no_torch():
    loaded = "import sys, fedtl.cli.main; print([m for m in ('torch', 'flwr', 'ray', 'opacus', 'timm', 'sklearn') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip() == "[]"
    )


def test_a_run_needs_no_framework_that_it_does_not_use():
    code = (
        "import sys\n"
        "for name in ('flwr', 'ray', 'opacus', 'timm', 'torchvision'): sys.modules[name] = None\n"
        "sys.argv = ['fedtl', 'run', 'digits', '--set', 'rounds=1', '--set', 'engine.name=serial', '--quiet', '--out', sys.argv[1]]\n"
        "import fedtl.cli.main; fedtl.cli.main.main()\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", code, f"{folder}/run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_no_worker_outlives_a_killed_command(tmp_path):
    """Workers exit when the command is killed with kill -9 during training."""
    command = [sys.executable, "-m", "fedtl", "compare", "digits", "--methods", "local,fedtl", "--seeds", "0"]
    command += ["--set", "rounds=2000", "--quiet", "--out", str(tmp_path / "run")]
    child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "run").glob("runs/*/checkpoint/state.pt")):
        time.sleep(0.05)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _alive(child.pid):
        time.sleep(0.1)
    assert not _alive(child.pid)


def _alive(group):
    """Return whether a process of the group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
