"""Silos without labels: what each method does there, what is refused, and that their labels change no bit of anything."""

from dataclasses import replace

import numpy as np
import pytest

from fedtl.data.parts import split_rows
from fedtl.data.registry import DATA
from fedtl.errors import ConfigError
from fedtl.experiment.compare import compare
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.few_labels import usable_methods
from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.label_free import made_with_labels, without_labels
from fedtl.methods.registry import METHODS
from tests.experiment.runs import do, numbers, same, small, tensors
from tests.experiments import MIXED

UNLABELLED = "data.unlabelled=['faint']"


def flip_unused_labels(monkeypatch, settings, seed):
    """Give every training and validation row of an unlabelled silo another label; its test rows keep theirs."""
    source = DATA["digits"]

    def read(given, name):
        raw = source.read(given, name)
        if name not in settings.unlabelled:
            return raw
        _, tested = split_rows(raw, settings, name, seed)
        y = 9 - raw.train.y
        y[tested] = raw.train.y[tested]
        assert np.mean(y != raw.train.y) == pytest.approx(0.8, abs=0.01)
        return replace(raw, train=replace(raw.train, y=y))

    monkeypatch.setitem(DATA.own, "digits", replace(source, read=read))


@pytest.mark.parametrize("method", ["silobn", "pooled"])
def test_flipping_all_labels_of_an_unlabelled_silo_changes_no_bit(method, tmp_path, monkeypatch):
    experiment = small(f"method.name={method}", UNLABELLED, *MIXED)
    first = do(tmp_path / "a", experiment)
    flip_unused_labels(monkeypatch, experiment.data, experiment.split_seed)
    second = do(tmp_path / "b", experiment)
    assert numbers(first) == numbers(second)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    one, other = (RunFolder(tmp_path / name) for name in "ab")
    assert [line.silos for line in one.history()] == [line.silos for line in other.history()]
    assert [one.validation(silo) for silo in first["silos"]] == [
        other.validation(silo) for silo in first["silos"]
    ]


def test_a_supervised_method_adapts_the_statistics_of_an_unlabelled_silo_alone(tmp_path):
    result = do(tmp_path, small("method.name=silobn", UNLABELLED, *MIXED))
    own = result["silos"]["faint"]
    assert (own["train"], own["unlabelled"], own["val"], own["test"]) == (0, 40, 0, 60)
    assert "mix" not in own
    assert "accuracy" in own
    local, shared = (
        RunFolder(tmp_path).tensors(name) for name in ("silos/faint/local.safetensors", "shared.safetensors")
    )
    assert local.keys() & shared.keys() == set()
    assert all("running" in name or "num_batches" in name for name in local)
    assert all("faint" not in line.silos for line in RunFolder(tmp_path).history())
    assert any("not used at faint" in note for note in result["notes"])


def test_a_silo_without_labels_gets_no_model_where_each_trains_alone(tmp_path):
    result = do(tmp_path, small("method.name=local", UNLABELLED))
    assert "faint" not in result["silos"]
    assert len(result["silos"]) == 5
    assert any("gives them no model" in note for note in result["notes"])


def test_a_fraction_of_the_labels(tmp_path):
    result = do(tmp_path, small("method.name=fedavg", "data.label_fraction={faint=0.5}"))
    own = result["silos"]["faint"]
    assert (own["train"] + own["unlabelled"], result["silos"]["plain"]["train"]) == (40, 40)
    assert 20 <= own["train"] <= 25


@pytest.mark.parametrize("name", METHODS.own)
def test_a_method_that_trains_on_labels_what_stays_at_home_is_refused(name, tmp_path):
    method = METHODS[name]()
    if not made_with_labels(method) or not method.shared:
        assert name in usable_methods() or not method.shared
        return
    assert without_labels(method) == "needs labels"
    more = ["data.unlabelled=['faint']", "data.label_fraction={plain=0.5}"]
    with pytest.raises(ConfigError, match=f"method '{name}' trains"):
        do(tmp_path, small(f"method.name={name}", *more))


def test_usable_methods():
    usable = set(usable_methods())
    assert usable >= {"pooled", "fedavg", "fedprox", "silobn", "scaffold", "moon", "silo_mmd", "simultaneous"}
    assert not usable & {"local", "fedtl", "fedbn", "fedper", "ditto", "mrmtl", "apfl"}


CONTRADICTIONS = {
    "data.late=['faint']": "data.late",
    "data.label_fraction={faint=0.5}": "label_fraction",
    "data.target_domain=inverted": "target_domain",
    "data.unlabelled=['faint', 'faint']": "2 times",
    "privacy.epsilon=3": "privacy",
    "data.unlabelled=['plain', 'inverted', 'blurred', 'faint', 'rotated', 'textured']": "no silo has labels",
}


@pytest.mark.parametrize("setting", CONTRADICTIONS)
def test_settings_that_contradict_an_unlabelled_silo(setting, tmp_path):
    with pytest.raises(ConfigError, match=CONTRADICTIONS[setting]):
        do(tmp_path, small("method.name=silobn", UNLABELLED, setting))


def test_a_comparison_leaves_out_what_an_unlabelled_silo_has_not(tmp_path):
    methods = 'compare.methods=["local", "local ensemble", "silobn"]'
    experiment = small(UNLABELLED, methods, "compare.seeds=[0]", "rounds=1")
    found = compare(experiment, RunFolder.create(tmp_path, experiment), 1, "cpu")
    assert "faint" in found.methods["silobn"]
    assert all("faint" not in found.methods[label] for label in ("local", "local ensemble", "constant"))
    assert "faint" not in found.over_local["silobn"]


def test_regression_needs_declared_scales():
    with pytest.raises(ConfigError, match="scale"):
        load_experiment("digits", ["data.task=regression", UNLABELLED])
