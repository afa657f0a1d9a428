"""Settings of tasks: what is refused before data loads, and labels that are read from tables and arrays."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from fedtl.data.labels import label_numbers
from fedtl.data.memory import rows_in_memory
from fedtl.data.prepare import prepare_silo
from fedtl.data.settings import DataSettings
from fedtl.deployment.plan import load_agreement, make_agreement
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.known_tasks import DEPLOYMENT, INSTEAD, KNOWN, check_deployment, check_every_task
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.config.privacy_checks import unsound
from fedtl.tasks.registry import TASKS

SURVIVAL = {"task": "survival", "label": "time", "event": "event", "horizons": [1, 2, 4]}
COX = {"task": "cox", "label": "time", "event": "event"}
MULTI = {"task": "multilabel", "classes": ["edema", "effusion"]}
LABELS = {
    "time": [1.5, 2.0, 3.0, 0.5, 6.0, 2.0] * 4,
    "event": [1, 0, 1, 1, 0, 1] * 4,
    "edema": [1, 0, np.nan, 1, 0, 1] * 4,
    "effusion": [0, 0, 1, 1, 0, 1] * 4,
}


def experiment(data, **others):
    return parse_experiment(
        {"data": {"source": "memory", "silos": ["a"], **data}, "model": {"name": "mlp"}, **others}
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"task": "ordinal"}, "needs its levels"),
        ({"task": "multilabel"}, "needs the columns"),
        (MULTI | {"label": "edema"}, "is not read"),
        ({"task": "survival", "event": "e"}, "needs data.horizons"),
        ({**SURVIVAL, "horizons": [2, 1]}, "ascending"),
        ({"event": "e"}, "data.event is a setting"),
        ({"horizons": [1]}, "data.horizons is a setting"),
        ({"task": "counts", "focal": 2}, "data.focal"),
        ({"task": "counts", "class_weights": "balanced"}, "data.class_weights"),
        ({"classes": ["a", "b"], "class_weights": {"c": 2}}, "'c' is not in"),
        ({"task": "counts", "positive_above": 1}, "positive_above"),
        ({"task": "counts", "classes": ["a", "b"]}, "data.classes lists"),
        ({"task": "counts", "unlabelled": ["a"]}, "data.unlabelled is set"),
        ({"task": "counts", "label_fraction": 0.5}, "data.label_fraction is set"),
    ],
)
def test_settings_that_a_task_contradicts_are_refused(data, words):
    with pytest.raises(ConfigError, match=words):
        experiment(data)


@pytest.mark.parametrize("method", ["ridge", "fedproto", "protonet", "shot"])
def test_methods_of_classes_and_values_are_refused(method):
    data = {"task": "counts", "unlabelled": [], "public": []}
    with pytest.raises(ConfigError, match="classification and regression"):
        experiment(data, method={"name": method})


@pytest.mark.parametrize(
    "method", ["fedavg", "fedbn", "fedper", "fedtl", "ditto", "scaffold", "moon", "scarf"]
)
def test_other_methods_know_every_task(method):
    assert experiment(SURVIVAL, method={"name": method}).data.predicted.width(()) == 3


def test_metrics_belong_to_tasks():
    assert experiment({"task": "counts"}).metric == "d2"
    assert experiment({}, compare={"metric": "macro_f1"}).metric == "macro_f1"
    with pytest.raises(ConfigError, match="not a metric of"):
        experiment({"task": "counts"}, compare={"metric": "accuracy"})


@pytest.mark.parametrize(
    ("data", "words"),
    [(COX, 'task = "survival"'), ({"class_weights": "balanced"}, "counts of private rows")],
)
def test_what_reads_other_rows_is_refused_under_privacy(data, words):
    with pytest.raises(ConfigError, match=words):
        experiment(data, privacy={"epsilon": 3.0})


def test_per_example_losses_are_sound_under_privacy():
    public = {"class_weights": {"1": 2.0}, "focal": 2.0}
    for data in (SURVIVAL, MULTI, {"task": "counts"}, {"task": "ordinal", "classes": ["l", "h"]}, public):
        assert not list(unsound(experiment(data, privacy={"epsilon": 3.0}, method={"name": "fedtl"})))


@pytest.mark.parametrize("what", INSTEAD)
def test_commands_that_need_classes_or_values_say_so_and_what_to_do(what):
    masks = {"task": "segmentation", "classes": ["ground", "lesion"], "source": "memory", "silos": ["a"]}
    for data in (SURVIVAL, masks):
        if what == DEPLOYMENT and data is masks:
            continue
        check = check_deployment if what == DEPLOYMENT else partial(check_every_task, what=what)
        with pytest.raises(ConfigError, match=f"{what} works") as caught:
            check(experiment(data))
        assert str(caught.value).endswith(INSTEAD[what])


def test_an_agreement_on_survival_is_refused(tmp_path):
    plan = make_agreement(experiment(SURVIVAL), (2,), (), "", False)
    (tmp_path / "plan.toml").write_text(plan.dump())
    with pytest.raises(ConfigError, match="a deployment works with"):
        load_agreement(tmp_path / "plan.toml")


def read(data, frame):
    settings, raws = rows_in_memory({"a": frame}, experiment(data).data)
    made = prepare_silo(raws["a"], settings, "a", 0, (), frozenset())
    return raws["a"], made.data


@pytest.mark.parametrize("data", [SURVIVAL, COX, MULTI])
def test_several_columns_are_one_label_and_no_inputs(data):
    names = ["edema", "effusion"] if data is MULTI else ["time", "event"]
    frame = pd.DataFrame({"x": np.arange(24.0), **{name: LABELS[name] for name in names}})
    raw, made = read(data, frame)
    assert raw.columns == ("x",)
    np.testing.assert_array_equal(raw.train.y, frame[names].to_numpy(float))
    assert made.classes == ()
    assert made.scaled(made.train.y).dtype == (torch.float32 if data is MULTI else torch.float64)  # times
    assert made.train.y.shape[1] == 2


def test_levels_keep_the_order_of_the_settings():
    frame = pd.DataFrame({"x": np.arange(24.0), "label": ["mid", "low", "high"] * 8})
    data = {"task": "ordinal", "classes": ["low", "mid", "high"]}
    settings, raws = rows_in_memory({"a": frame}, experiment(data).data)
    trained = frozenset(settings.classes)
    made = prepare_silo(raws["a"], settings, "a", 0, tuple(sorted(trained)), trained).data
    assert made.task.outputs(made.classes) == ("low", "mid", "high")
    np.testing.assert_array_equal(
        label_numbers(np.array(["low", "mid", "high"]), tuple(sorted(trained)), settings), [0, 1, 2]
    )
    assert made.width == 2


@pytest.mark.parametrize(
    ("data", "changed", "words"),
    [
        (SURVIVAL, {"event": [2] * 24}, "survival needs"),
        (SURVIVAL, {"time": [-1.0] * 24}, "survival needs"),
        (MULTI, {"edema": [0.5] * 24}, "multilabel needs"),
        ({"task": "counts", "label": "edema"}, {"edema": [1.5] * 24}, "counts needs"),
    ],
)
def test_labels_that_are_none_are_refused_with_the_silo(data, changed, words):
    frame = pd.DataFrame({"x": np.arange(24.0), **LABELS, **changed})
    with pytest.raises(DataError, match=words):
        rows_in_memory({"a": frame}, experiment(data).data)


def test_by_record_a_row_whose_label_is_none_does_not_train():
    settings = DataSettings(**SURVIVAL, by_record=True)
    y = settings.predicted.encoded(np.array([[1.0, 1], [-1, 1], [2, 3], [np.nan, 0]]))
    assert y.isnan().all(1).tolist() == [False, True, True, True]


def test_arrays_hold_one_column_for_each_number():
    x = np.zeros((24, 2))
    with pytest.raises(DataError, match="needs"):
        rows_in_memory({"a": (x, np.zeros(24))}, experiment(SURVIVAL).data)
    y = np.stack([LABELS["edema"], LABELS["effusion"]], 1)
    assert rows_in_memory({"a": (x, y)}, experiment(MULTI).data)[1]["a"].train.y.shape == (24, 2)
    with pytest.raises(DataError, match="multilabel"):
        rows_in_memory({"a": (x, y)}, experiment({}).data)


def test_the_tasks_that_every_command_knows_are_those_of_the_registry():
    assert set(KNOWN) == {name for name, task in TASKS.items() if task.least_squares}


def test_text_and_missing_columns_of_an_event_name_the_event():
    frame = pd.DataFrame({"v": [1.0, 2.0], "time": [3.0, 4.0], "e": ["no", "yes"]})
    settings = {**SURVIVAL, "label": "time"}
    with pytest.raises(DataError, match="an event of 0"):
        rows_in_memory({"a": frame}, experiment({**settings, "event": "e"}).data)
    with pytest.raises(DataError, match="data.event: "):
        rows_in_memory({"a": frame.drop(columns="e")}, experiment({**settings, "event": "d"}).data)
