"""The fedtl command: what it prints, JSON output, exit codes, and the use of a finished run."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedtl.experiment.config.resolve import describe
from fedtl.methods.registry import METHODS, TERMS
from fedtl.models.registry import MODELS
from tests.cli.runs import SMALL
from tests.commands import fedtl


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


@pytest.mark.parametrize(("command", "table"), [("methods", {**TERMS, **METHODS}), ("models", MODELS)])
def test_lists_have_a_line_for_each_name_and_all_about_one(command, table):
    listed = fedtl(command).stdout.splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ")]
    assert set(table) <= set(names)
    assert len(listed) < len(names) + 4
    name = "fedprox" if command == "methods" else "convnet"
    assert f"\nsettings: {describe(table[name])}\n" in fedtl(command, name).stdout
    assert json.loads(fedtl(command, name, "--json").stdout)["name"] == name
    wrong = fedtl(command, name[:-1])
    assert wrong.returncode == 2
    assert f"did you mean '{name}'" in wrong.stderr
    assert wrong.stderr.endswith(f"fedtl {command}\n")  # how to list all names, not the names


def test_show_has_one_line_for_each_slot_and_every_tensor_in_json():
    words = ["show", "digits", "--set", "method.name=scaffold", "--set", "data.limit=40"]
    shown = fedtl(*words).stdout
    listed = json.loads(fedtl(*words, "--json").stdout)
    model = [row["name"] for row in listed["tensors"] if "/" not in row["name"]]
    trained = [
        name for name in model if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    for slot, where in (("control", "leaves in each round"), ("own_control", "stays")):
        rows = [row for row in listed["tensors"] if row["name"].startswith(f"{slot}/")]
        assert [row["name"] for row in rows] == [f"{slot}/{name}" for name in trained]  # in the model's order
        size = sum(row["bytes"] for row in rows)
        line = f"{slot}: {len(rows)} tensors in addition to the model, {size:,} bytes, {where}"
        assert line in shown
        assert f"{slot}/" not in shown
    assert "…" not in shown


def test_show_prints_the_privacy_guarantee_of_each_silo():
    done = fedtl("show", "digits", "--json", "--set", "privacy.epsilon=3", "--set", "privacy.statistics=dp")
    its = json.loads(done.stdout)["privacy"]["silos"]["faint"]
    assert 2.9 < its["epsilon"] <= 3.0 < its["epsilon_replace_one"]
    assert (its["units"], its["rounds"], its["steps_a_round"]) == (100, 40, 4)
    assert its["statistics_expected_noise"] > 0.5
    assert its["adjacency"].startswith("zero-out of one record")
    assert json.loads(done.stdout)["heads"] == "trained"
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
    shown = json.loads(fedtl("show", "digits", "--json").stdout)
    assert (shown["refused"], shown["heads"]) == ([], "simplex")


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
    adapted = fedtl(
        "predict", path, "--silo", "faint", "--input", tmp_path / "new.npz", "--adapt", "tent", "--json"
    )
    assert (adapted.returncode, "TENT" in adapted.stderr) == (0, True)
    lines = json.loads(adapted.stdout)
    assert {line["adapted"] for line in lines} == {"tent"}
    assert len(lines) == len(said)
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


def test_a_silos_model_is_exported_as_another_net(finished, tmp_path):
    path, _ = finished
    wanted = ("--distil", "mlp", "--set", "width=8", "--epochs", 2)
    done = fedtl("export", path, "--silo", "faint", "--out", tmp_path / "model", *wanted)
    assert done.returncode == 0, done.stderr
    assert "accuracy on 60 test rows" in done.stdout
    assert load_file(tmp_path / "model" / "model.safetensors")["classifier.weight"].shape == (10, 8)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["distilled"]["test_rows"] == 60
    pytest.importorskip("onnx")
    assert (tmp_path / "model" / "model.onnx").exists()
    alone = fedtl("export", path, "--silo", "faint", "--out", tmp_path / "other", "--set", "width=8")
    assert (alone.returncode, "--distil" in alone.stderr) == (2, True)
    wrong = fedtl("export", path, "--silo", "faint", "--out", tmp_path / "other", "--distil", "mlpp")
    assert (wrong.returncode, "mlpp" in wrong.stderr) == (2, True)
    assert not (tmp_path / "other").exists()
