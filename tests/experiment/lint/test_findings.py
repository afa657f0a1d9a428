"""One look finds everything: settings alone, and what only the rows can tell."""

import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from torch import nn

from fedtl.errors import ConfigError
from fedtl.experiment.columns import comparison_columns, repeats
from fedtl.experiment.config.load import load_experiment, read_experiment
from fedtl.experiment.config.privacy_checks import doubtful
from fedtl.experiment.config.repair import STAND_INS
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.lint import dry_run as examined
from fedtl.experiment.lint.findings import lint
from fedtl.methods.losses import PerExample
from fedtl.methods.registry import TERMS
from fedtl.models.registry import MODELS
from fedtl.privacy.guarantee import PrivacyGuarantee
from tests.experiment.private_silos import bench_of, silo_of
from tests.problems import with_training

PRIVATE = ["privacy.epsilon=3", 'data.silos=["plain", "faint"]']


def found(*sets):
    """PRIVATE, but for what ``sets`` says otherwise."""
    given = {setting.partition("=")[0] for setting in sets}
    return lint(
        read_experiment("digits", [*(one for one in PRIVATE if one.partition("=")[0] not in given), *sets])
    )


def test_what_only_the_rows_can_tell_is_found_beside_what_the_settings_say():
    its = found("privacy.delta=0.5", "model.dtype=bf16", "privacy.noise=reproducible")
    assert [line for line in its.unsound if "model.dtype = 'bf16'" in line]
    assert {line.split(":")[0] for line in its.unsound if "above 1/n" in line} == {"plain", "faint"}
    assert any("nothing is private" in line for line in its.doubtful)
    assert not any(line.startswith("noise:") for line in its.holds)


def test_what_holds_has_its_numbers():
    its = found("rounds=2", "train.batch_size=30", "silo.faint.privacy.clip=2.0")
    assert its.unsound == ()
    noise, sampling, steps, accounting, leaves, prepared, records = its.holds
    assert "plain, faint: 10 classes declared," in prepared
    # 100 rows train: 4 samples of 30, and 2 rounds
    assert "plain, faint: 8 in all, 4 in each" in steps
    assert "sampling: Poisson" in sampling
    assert "plain, faint: 0.3, 100" in sampling
    assert "the operating system" in noise
    assert ", 1; faint: " in noise
    assert noise.endswith(", 2")
    assert re.search(r"plain, faint: .* (2\.9\d\d|3\.000) at delta 1e-05$", accounting)
    assert leaves.endswith("and no accuracy")
    assert "checked for convnet" in records


def test_no_line_that_holds_is_false():
    """Each with the settings that would make it so."""
    told = found('privacy.metrics=["accuracy"]', "method.name=fedavg", "privacy.statistics=dp")
    leaves = next(line for line in told.holds if line.startswith("what leaves"))
    assert "no accuracy" not in leaves
    assert "and noisy statistics" in leaves
    assert "plain, faint: ± " in leaves
    assert found("privacy.noise=reproducible").holds == ()  # nothing is promised
    assert found("privacy.delta=0.5").holds == ()  # and nothing that will not be trained
    assert found("model.dtype=bf16").holds == ()


@pytest.mark.parametrize(
    ("key", "value"), [("unit", "patient"), ("noise", "reproducible"), ("tuning", "public")]
)
def test_what_a_result_says_once_is_the_same_in_all_silos(key, value):
    (line,) = found(f"silo.faint.privacy.{key}={value}").unsound[:1]
    assert line.startswith(f"silo.faint.privacy.{key} = {value!r}: ")
    assert f"set privacy.{key} " in line


def test_every_warning_is_listed():
    its = found('privacy.metrics=["accuracy"]', "privacy.statistics=dp", "privacy.epsilon=1")
    of_silos = [line for line in its.doubtful if line.startswith(("plain", "faint"))]
    assert len(of_silos) == 2  # once each, with the silos that it concerns
    assert all("plain" in line and "faint" in line for line in of_silos)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["engine.stack=4", "privacy.delta=0.5"], ["engine.stack = 4", "plain: privacy.delta = 0.5 is above 1/n"]),
        (["model.name=resnet181", "privacy.delta=0.5"], ["'resnet181'", "faint: privacy.delta = 0.5 is"]),
        (["model.freeze=99", "privacy.delta=0.5"], ["model.freeze = 99", "faint: privacy.delta = 0.5 is above"]),
        (["method.name=fedbm", "privacy.delta=0.5"], ["'fedbm'", "faint: privacy.delta = 0.5 is above"]),
        (["method.terms=[{name='corall'}]", "model.dtype=bf16"], ["'corall'", "model.dtype = 'bf16'"]),
        (["privacy.delta=1.5", "model.dtype=bf16"], ["privacy.delta = 1.5: ", "model.dtype = 'bf16'"]),
        (["privacy.epsilon=0", "privacy.delta=0.5"], ["privacy.epsilon = 0: ", "plain: privacy.delta = 0.5"]),
        (["privacy.epsilom=1", "seed=-1"], ['mean "privacy.epsilon"', "seed = -1"]),
        (["compare.seeds=[0, 0]", "privacy.delta=0.5"], ["compare.seeds lists 0", "plain: privacy.delta = 0.5"]),
        (["data.limit=x", "model.dtype=bf16", "rounds=0"], ["data.limit = 'x'", "model.dtype = 'bf16'", "rounds = 0"]),
        (["privacy.unit=patient", "model.dtype=bf16"], ["privacy.unit = 'patient'", "model.dtype = 'bf16'"]),
        (["train.optimizer=sgdd", "privacy.delta=0.5"], ["'sgdd'", "plain: privacy.delta = 0.5"]),
        (['compare.methods=["x", "local"]', "privacy.delta=0.5"], ["compare.methods = 'x'", "plain: privacy.delta"]),
        (["silo.nobody.privacy.epsilon=1", "privacy.delta=0.5"], ["silo.nobody: no silo", "plain: privacy.delta"]),
        (["minimum_silos=3", "silos_per_round=2"], ["minimum_silos = 3; raise", "only 2 silos"]),
    ],
)  # fmt: skip
def test_one_mistake_hides_no_other(sets, says):
    its = found(*sets)
    for text in says:
        assert sum(text in line for line in its.unsound) == 1, its.unsound
    assert its.holds == ()


@pytest.mark.parametrize("name", ["local", "pooled", "probe"])
def test_a_yardstick_is_said_once_to_be_one(name):
    (line,) = found(f"method.name={name}").unsound
    assert line.startswith(f"method '{name}' ")


def test_what_has_no_default_has_a_stand_in():
    needed = {
        (name, key)
        for name, field in Experiment.model_fields.items()
        for kind in (field.annotation, *get_args(field.annotation))
        for key, own in getattr(kind, "model_fields", {}).items()
        if own.is_required()
    }
    assert needed == set(STAND_INS)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("poisson=false", "always Poisson samples"),
        ("shuffle=true", "shuffled batches"),
        ("drop_last=true", "none is dropped"),
        ("max_steps=3", "privacy.steps"),
        ("noise_multiplier=0", "noise multiplier"),
        ("secure_mode=true", "operating system"),
        ("seed=0", "operating system"),
        ("reset_engine=true", "never reset"),
        ("max_grad_norm=1.0", "privacy.clip"),
    ],
)
@pytest.mark.parametrize("table", ["privacy", "silo.faint.privacy"])
def test_a_setting_of_other_libraries_is_answered_with_the_reason(table, key, why):
    lines = [line for line in found(f"{table}.{key}").unsound if why in line]
    assert len(lines) == 1
    assert f'"{table}.{key.partition("=")[0]}" is not a setting: ' in lines[0]
    with pytest.raises(ConfigError, match="is not a setting: "):
        load_experiment("digits", [*PRIVATE, f"{table}.{key}"])


def test_one_seed_for_noise_and_samples_is_asked_about():
    (line,) = (
        line for line in found("privacy.noise=reproducible", "seed=7").doubtful if "reproducible" in line
    )
    assert "seed = 7" in line


class Together(PerExample):
    """Says that it is a loss an example, and compares each with the batch's mean."""

    def losses(self, out):
        return (out.scores - out.scores.mean(0)).square().sum(1)


def test_records_that_meet_are_found_by_trying_whatever_a_loss_says_it_is(monkeypatch):
    monkeypatch.setitem(TERMS.own, "together", Together)
    its = found("method.terms=[{name='together'}]", "privacy.delta=0.5", "silo.plain.privacy.delta=auto")
    assert [line for line in its.unsound if "a record's loss" in line]
    assert [line for line in its.unsound if "faint: privacy.delta" in line]


def test_records_that_meet_in_a_layer_are_found_with_its_name(monkeypatch):
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0) if self.training else x  # in both modes it is refused when the model is cut

    def odd(shape):
        return nn.Sequential(nn.Flatten(), Centred(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)), "4"

    monkeypatch.setitem(MODELS.own, "odd", odd)
    (line,) = found("model.name=odd").unsound
    assert "body.1 (Centred)" in line


def test_a_model_that_takes_long_is_not_tried_and_nothing_is_said_of_it(monkeypatch):
    monkeypatch.setattr(examined, "MAX_FORWARD_SECONDS", 0.0)
    its = found()
    assert its.unsound == ()
    (line,) = (line for line in its.holds if line.startswith("per-example gradients"))
    assert "not checked here" in line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"training": {"noise_multiplier": 0.0}}, "without noise nothing is private"),
        ({"epsilon": 3.1}, "than the 3"),
    ],
)
def test_what_is_done_is_what_is_charged(changes, says, tmp_path):
    its = silo_of(bench_of(), tmp_path, epsilon=3.0).guarantee
    its = with_training(its, **changes.get("training", {"steps": (4,)}))
    lines = list(
        examined._charge_mismatches(
            "here", replace(its, **{key: value for key, value in changes.items() if key != "training"})
        )
    )
    assert lines == [] if says is None else [line for line in lines if says in line]


def test_steps_that_are_not_charged_are_found(tmp_path):
    class Short(PrivacyGuarantee):
        def events(self, first):
            return tuple(replace(event, steps=1) for event in super().events(first))

    its = silo_of(bench_of(), tmp_path, rounds=2).guarantee
    (line,) = examined._charge_mismatches("here", Short(**vars(its)))
    assert line.startswith(f"here: training takes {2 * sum(its.training.steps)} steps, but 2 ")


@pytest.mark.parametrize(("privately", "runs"), [(["fedavg", "fedbn"], 4), (["local", "pooled"], 0)])
def test_only_private_runs_add_up(privately, runs):
    its = found(f"compare.methods={privately}", "compare.seeds=[0, 1]")
    added = [line for line in its.doubtful if "epsilons add" in line]
    assert bool(added) is bool(runs)
    assert not runs or f"makes {runs} private" in added[0]


def test_runs_of_each_fold_and_form_add_up_too():
    """As many as the comparison itself lists."""
    its = load_experiment(
        "digits",
        [
            "privacy.epsilon=3",
            "data.scale=none",
            "compare.methods=['local', 'fedavg']",
            "compare.folds=5",
            "wire.dtype=int8",
        ],
    )
    columns = [column for column in comparison_columns(its) if column.experiment.privacy]
    runs = len(columns) * len(repeats(its))
    assert runs == 30
    assert any(line.startswith(f"compare makes {runs} private") for line in doubtful(its))


def test_copies_of_rows_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    x[30:] = x[:30]
    np.savez(
        tmp_path / "a.npz", train_x=x, train_y=np.arange(60) % 2, test_x=x[:10], test_y=np.arange(10) % 2
    )
    sets = [
        "data.source=npz",
        f"data.path={tmp_path}",
        "data.val=0.0",
        "privacy.epsilon=3",
        "train.batch_size=8",
    ]
    its = lint(read_experiment("digits", sets))
    assert any(line.startswith("a: 30 of 60 ") and "duplicates" in line for line in its.doubtful)


def test_a_silo_that_cannot_be_read_hides_nothing_of_the_others(tmp_path):
    rng = np.random.default_rng(0)
    for name, rows in (("a", 6), ("b", 40)):
        x, y = rng.integers(0, 256, (rows, 8, 8), dtype=np.uint8), np.arange(rows) % 2
        test = {} if rows == 6 else {"test_x": x[:4], "test_y": y[:4]}
        np.savez(tmp_path / f"{name}.npz", train_x=x, train_y=y, **test)
    sets = ["data.source=npz", f"data.path={tmp_path}", "data.val=0.0", "data.silos=[]", "privacy.delta=0.5"]
    its = found(*sets, "data.classes=['0','1']", "data.test=0.9")
    one, other = its.unsound
    assert one.startswith("silo a: data.test and data.val leave 1 training rows")
    assert other.startswith("b: privacy.delta = 0.5 is above")


def test_a_silo_whose_rows_stand_in_another_is_noticed(tmp_path):
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 40, 8, 8), dtype=np.uint8)
    for name, x in (("a", one), ("b", np.concatenate([one[:20], other[:10]]))):
        y = np.arange(len(x)) % 2
        np.savez(tmp_path / f"{name}.npz", train_x=x, train_y=y, test_x=x[:4], test_y=y[:4])
    sets = ["data.source=npz", f"data.path={tmp_path}", "data.val=0.0", "data.silos=[]", "train.batch_size=8"]
    sets += ["data.classes=['0','1']"]
    (line,) = (line for line in found(*sets, "data.limit=0").doubtful if "also in a" in line)
    assert line.startswith("b: 20 of 30 ")
    assert "both silos add" in line


def test_without_privacy_there_is_nothing_to_hold():
    its = lint(read_experiment("digits", []))
    assert its.holds == ()
    assert its.unsound == ()
    assert len(its.doubtful) == 1


@pytest.mark.parametrize("private", [False, True])
def test_an_index_column_is_asked_about(tmp_path, private):
    """pandas writes a column without a name that counts the rows, and a model can learn from it."""
    rng = np.random.default_rng(0)
    for silo in "ab":
        frame = pd.DataFrame({"x": rng.normal(size=40), "label": np.arange(40) % 2})
        frame.to_csv(tmp_path / f"{silo}.csv")
    table = {"data": {"source": "table", "path": str(tmp_path)}, "model": {"name": "mlp"}}
    if private:
        table |= {"privacy": {"epsilon": 3.0}}
    asked = [line for line in lint(table).doubtful if "'Unnamed: 0'" in line]
    assert len(asked) == 1, asked
    assert "a: 'Unnamed: 0'; b: 'Unnamed: 0'" in asked[0]
    assert "data.drop" in asked[0]
    table["data"]["drop"] = ["Unnamed: 0"]
    assert not [line for line in lint(table).doubtful if "Unnamed" in line]
