"""Whole runs: test rows are read once and at the end; late, public and unlabelled silos; mistakes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fedtl.data import prepare
from fedtl.errors import ConfigError, DataError, NotEnoughSilos
from fedtl.experiment import study as building
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study_data import StudyData
from fedtl.federation.round_log import RoundLog
from fedtl.methods.ridge import head_names
from tests.experiment.runs import do, own_validation, small
from tests.experiments import ROUNDS_ONLY


def test_test_rows_are_opened_after_the_last_round(tmp_path, monkeypatch):
    events = []
    opened, appended = StudyData.evaluation_set, RoundLog.append
    monkeypatch.setattr(
        StudyData, "evaluation_set", lambda data, name: events.append(name) or opened(data, name)
    )
    monkeypatch.setattr(
        RoundLog, "append", lambda self, line: events.append(line.round) or appended(self, line)
    )
    do(tmp_path, small())
    assert events[:2] == [1, 2]
    assert sorted(set(events[2:])) == ["blurred", "faint", "inverted", "plain", "rotated", "textured"]


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


def test_a_late_silo_may_have_a_head_in_closed_form_only(tmp_path):
    late = ["data.late=['faint']", "data.shots=3", 'data.silos=["plain", "faint"]', "rounds=1"]
    both = do(tmp_path / "both", small("method.name=fedtl", *late))["late"]["faint"]
    ridge = do(tmp_path / "ridge", small("method.name=fedtl", *late, "data.late_head=ridge"))["late"]["faint"]
    assert ridge == {row: both[row] for row in ("alone", "ridge_adabn")}


@pytest.mark.parametrize("asks", ["data.late_head=ridge", "method.name=ridge", "method.head=ridge"])
def test_a_head_in_closed_form_needs_one_linear_layer(asks, tmp_path, monkeypatch):
    """Refused before anything is trained."""
    monkeypatch.setattr(building, "head_names", lambda _: head_names({"head.0.weight": torch.zeros(2, 2)}))
    settings = ["data.late=['faint']", "method.name=probe"]
    settings = [one for one in settings if one.partition("=")[0] != asks.partition("=")[0]]
    with pytest.raises(ConfigError, match="one linear layer"):
        do(tmp_path, small(*settings, asks))


def test_adabn_helps_a_late_silo_whose_scanner_is_another(tmp_path):
    result = do(
        tmp_path,
        load_experiment(
            "digits",
            ["rounds=15", "engine.name=serial", "method.name=silobn", "data.late=['faint']", *ROUNDS_ONLY],
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
        (["model.name=resnet5000"], "is unknown"),
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
