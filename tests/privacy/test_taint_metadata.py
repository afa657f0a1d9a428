"""Provenance labels in a file of tensors, and what private training does with them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedtl._util.records import to_plain
from fedtl.cli.main import main
from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.compare import compare
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.privacy_checks import UNCOVERED, doubtful
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.privacy import taint, taint_metadata
from fedtl.privacy.taint import Label
from fedtl.report.run_page import run_page
from tests.experiments import ROUNDS_ONLY

SMALL = ["rounds=1", "data.limit=40", 'data.silos=["faint","plain"]', "engine.name=serial", *ROUNDS_ONLY]
PRIVATE = ["privacy.epsilon=8", "method.name=fedavg"]


def ran(path, *settings):
    experiment = load_experiment("digits", [*SMALL, *settings])
    folder = RunFolder.create(path, experiment)
    return folder, to_plain(run(experiment, folder))


def exported(folder, silo="plain"):
    out = folder.path / "exported"
    export_model(SiloModel(folder, silo), out)
    return out / "model.safetensors"


def said(path):
    found = taint_metadata.read_labels(path)
    assert found is not None
    return found


def from_file(path, *settings):
    return [*PRIVATE, f"model.weights={path}", *settings]


@pytest.fixture(scope="module")
def openly(tmp_path_factory):
    """A run without privacy, and the model that one silo exported."""
    folder, _ = ran(tmp_path_factory.mktemp("open") / "run")
    return folder, exported(folder)


@pytest.fixture(scope="module")
def privately(tmp_path_factory):
    """A private run, and the model that one silo exported."""
    folder, _ = ran(
        tmp_path_factory.mktemp("private") / "run",
        *PRIVATE[:1],
        "privacy.statistics=dp",
        "privacy.stages=[1]",
    )
    return folder, exported(folder)


def test_weights_trained_without_privacy_are_refused_under_privacy(openly, tmp_path, monkeypatch, capsys):
    """With an epsilon, they would look as if their rows were protected."""
    words = [word for setting in [*SMALL, *from_file(openly[1])] for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["fedtl", "run", "digits", "--out", str(tmp_path / "run"), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "body.features.0.weight is local-only" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["shared.safetensors", "silos/plain/local.safetensors"])
def test_every_file_of_a_run_has_labels(openly, file):
    folder, _ = openly
    found = said(folder.path / file)
    assert found.keys() == load_file(folder.path / file).keys()
    assert set(found.values()) == {Label.LOCAL}


def test_run_without_privacy_may_start_from_any_file_and_keeps_its_labels(openly, tmp_path):
    """A frozen stage keeps its label."""
    folder, result = ran(tmp_path / "next", f"model.weights={openly[1]}", "model.freeze=1")
    assert UNCOVERED not in result["notes"]
    assert set(said(folder.path / "shared.safetensors").values()) == {Label.LOCAL}
    fresh, _ = ran(tmp_path / "fresh", "model.freeze=1")
    found = said(exported(fresh))
    assert {name for name, label in found.items() if label is Label.PUBLIC} == {
        *("features.0.weight", "features.1.weight", "features.1.bias")
    }


def test_released_weights_may_be_used_and_their_cost_is_noted(privately, tmp_path):
    folder, model = privately
    found = said(model)
    assert found["classifier.weight"] is Label.MECHANISM
    assert found["features.0.weight"] is Label.RELEASED
    assert found["features.1.running_mean"] is Label.RELEASED
    assert found["features.5.running_mean"] is found["features.5.num_batches_tracked"] is Label.PUBLIC
    for number, file in enumerate((model, folder.path / "shared.safetensors")):
        _, result = ran(tmp_path / str(number), *from_file(file))
        assert any(f"model.weights: {file.name} " in note for note in result["notes"])
        assert UNCOVERED not in result["notes"]


def test_local_weights_of_a_private_run_may_not_be_used(tmp_path):
    folder, _ = ran(tmp_path / "run", *PRIVATE[:1], "privacy.statistics=local-after")
    model = exported(folder)
    assert {name for name, its in said(model).items() if its is Label.LOCAL} == {
        name for name in load_file(model) if "running" in name
    }
    with pytest.raises(ConfigError, match=r"running_mean is local-only"):
        ran(tmp_path / "next", *from_file(model))
    ran(tmp_path / "shared", *from_file(folder.path / "shared.safetensors"))


def test_reproducible_noise_does_not_protect(tmp_path):
    folder, _ = ran(tmp_path / "run", *PRIVATE, "privacy.noise=reproducible")
    moved = {label for name, label in said(exported(folder)).items() if name.endswith("weight")}
    assert moved == {Label.LOCAL}


def test_public_rows_give_a_public_file(tmp_path):
    folder, _ = ran(tmp_path / "run", "model.pretrain_on=['digits:']", "model.pretrain_epochs=1")
    file = folder.path / "pretrained.safetensors"
    assert set(said(file).values()) == {Label.PUBLIC}
    _, result = ran(tmp_path / "next", *from_file(file))
    assert not any("model.weights" in note for note in result["notes"])


def test_file_without_labels_is_used_with_a_note(openly, tmp_path):
    """Such as exports of earlier versions, and of any other library."""
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(openly[1]), bare)
    torch.save(load_file(openly[1]), tmp_path / "bare.pth")
    for file in (bare, tmp_path / "bare.pth"):
        folder, result = ran(tmp_path / file.suffix, *from_file(file))
        assert UNCOVERED in result["notes"]
        assert UNCOVERED in run_page(folder.result(), folder.history(), "")
        _, without = ran(tmp_path / f"{file.suffix}-open", f"model.weights={file}")
        assert UNCOVERED not in without["notes"]
    assert UNCOVERED in doubtful(load_experiment("digits", [*SMALL, *from_file(bare)]))
    assert UNCOVERED not in doubtful(load_experiment("digits", [*SMALL, *from_file(openly[1])]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not labels"),
        ("{", "not labels"),
        ("[" * 100_000, "not labels"),
        ("[]", "not labels"),
        ('{"features.0.weight": "harmless"}', "not labels"),
        ('{"features.0.weight": ["public"]}', "not labels"),
        ("{}", "'classifier.bias'"),
        ('{"features.0.weight": "public"}', "'classifier.bias'"),
    ],
)
def test_invalid_labels_are_refused(openly, tmp_path, text, says):
    file = tmp_path / "odd.safetensors"
    save_file(load_file(openly[1]), file, {taint_metadata.KEY: text})
    with pytest.raises(ModelError, match=says) as caught:
        ran(tmp_path / "run", *from_file(file))
    assert str(caught.value).startswith(f"model.weights: {file}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    list(doubtful(load_experiment("digits", [*SMALL, *from_file(file)])))  # lint goes on to the finding


def test_label_of_a_missing_tensor_is_refused(openly, tmp_path):
    file = tmp_path / "odd.safetensors"
    more = {**dict.fromkeys(load_file(openly[1]), "public"), "zz\nzz": "public"}
    save_file(load_file(openly[1]), file, {taint_metadata.KEY: json.dumps(more)})
    with pytest.raises(ModelError, match=r"'zz\\nzz'"):
        taint_metadata.read_labels(file)


def test_run_without_labels_is_exported_without_labels(openly, tmp_path):
    """Its files have no labels, and none are guessed."""
    experiment = openly[0].experiment()
    old = RunFolder.create(tmp_path / "old", experiment)
    for path in openly[0].path.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".safetensors") and "exported" not in path.parts:
            copy = old.path / path.relative_to(openly[0].path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                copy.write_bytes(path.read_bytes())
            else:
                save_file(load_file(path), copy)
    with safe_open(exported(old), "pt") as file:
        assert file.metadata() is None


def test_average_has_the_least_protected_label():
    some = [
        {"a": Label.PUBLIC, "b": Label.LOCAL},
        {"a": Label.RELEASED, "b": Label.MECHANISM},
        {"a": Label.PUBLIC},
    ]
    assert taint.combined_labels(some) == {"a": Label.RELEASED, "b": Label.LOCAL}
    assert taint.combined_labels([]) == {}


def test_reproducible_noise_makes_the_average_local_only(tmp_path):
    folder, _ = ran(tmp_path / "run", *PRIVATE, "privacy.noise=reproducible")
    assert said(folder.path / "shared.safetensors")["head.weight"] is Label.LOCAL


def test_site_refuses_to_start_privately_from_such_a_file(openly, tmp_path):
    from hashlib import sha256

    from fedtl.deployment.coordinator.bundle import build_bundle
    from fedtl.federation.policy import Code
    from fedtl.messages import Update
    from tests.deployment.site.sites import PRIVATE as BUDGET
    from tests.deployment.site.sites import Site

    file = Path(openly[1])
    its = {"base": sha256(file.read_bytes()).hexdigest(), "weights": str(file)}
    site = Site(tmp_path / "open", **its)
    assert isinstance(site.ask(site.task()), Update)
    with pytest.raises(ConfigError, match="is local-only"):
        Site(tmp_path / "private", dp_ready=True, policy__privacy=BUDGET, policy__metrics=[], **its)
    plan = site.plan.agreement.model_copy(update={"dp_ready": True})
    site.file.write_text(plan.dump())
    site.refused(site.task(2), Code.FAILED, "features.0.weight is local-only")
    with pytest.raises(ConfigError, match="is local-only"):
        build_bundle(
            tmp_path / "bundles", "digits", load_experiment("digits", ["minimum_silos=2", *from_file(file)])
        )


def test_comparison_refuses_such_a_file_before_any_run(openly, tmp_path):
    methods = ["compare.methods=['local','fedavg']", "compare.seeds=[0]"]
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(openly[1]), bare)
    refused, noted = (
        load_experiment("digits", [*SMALL, *from_file(file, *methods)]) for file in (openly[1], bare)
    )
    with pytest.raises(ConfigError, match="is local-only"):
        compare(refused, RunFolder.create(tmp_path / "refused", refused), 1, "cpu")
    assert not (tmp_path / "refused" / "runs").exists()
    comparison = compare(noted, RunFolder.create(tmp_path / "noted", noted), 1, "cpu")
    assert comparison.warnings.count(UNCOVERED) == 1
