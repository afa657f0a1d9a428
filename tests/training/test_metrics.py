"""
Metrics equal those of scikit-learn; a metric that is not defined for these rows or scores is absent, with the reason.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from fedtl._util.records import from_plain, to_plain
from fedtl.results.metrics import Measured, WorstSilo
from fedtl.tasks.classification import CLASSIFICATION, correct
from fedtl.tasks.registry import plain_task
from fedtl.tasks.regression import REGRESSION
from fedtl.training.metrics import means, measure, quick, worst_of

TWO = torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 3.0], [0.5, 0.2]])


def classes(*y):
    return torch.tensor(y, dtype=torch.int64)


def test_classification_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    found = measure(torch.from_numpy(scores).float(), torch.from_numpy(y), CLASSIFICATION)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert found.absent == {}
    assert found.figures == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(y, scores.argmax(1)),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, scores.argmax(1)),
            "auc": metrics.roc_auc_score(y, p[:, 1]),
            "loss": metrics.log_loss(y, p),
            "macro_auc": metrics.roc_auc_score(y, p[:, 1]),
            "macro_f1": metrics.f1_score(y, scores.argmax(1), average="macro"),
            "ece": found.figures["ece"],  # see tests/tasks
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_r2_does_not_depend_on_the_unit(scale):
    rng = np.random.default_rng(0)
    y = rng.normal(size=40)
    guess = y + rng.normal(size=40)
    found = measure(torch.from_numpy(guess * scale)[:, None], torch.from_numpy(y * scale), REGRESSION)
    assert found.figures["r2"] == pytest.approx(metrics.r2_score(y, guess))
    assert found.figures["rmse"] == pytest.approx(metrics.mean_squared_error(y, guess) ** 0.5 * scale)


@pytest.mark.parametrize(
    ("scores", "y", "absent", "reason"),
    [
        (TWO, classes(1, 1, 1, 1), {"balanced_accuracy", "auc", "macro_auc"}, "same class"),
        (TWO[:1], classes(1), {"balanced_accuracy", "auc", "macro_auc"}, "one row"),
        (TWO[:0], classes(), set(CLASSIFICATION.measured), "no rows"),
        (torch.randn(6, 3), classes(0, 1, 2, 0, 1, 2), {"auc"}, "3 classes"),
        (TWO * torch.tensor([1, float("nan")]), classes(0, 1, 0, 1), set(CLASSIFICATION.measured), "4 of 4"),
        (TWO[:, :1], torch.full((4,), 7.0), {"r2"}, "same value"),
        (TWO[:1, :1], torch.tensor([7.0]), {"r2"}, "one row"),
        (TWO[:, :1] / 0, torch.rand(4), set(REGRESSION.measured), "4 of 4"),
    ],
)  # fmt: skip
def test_a_metric_that_is_undefined_for_the_rows_is_absent_with_the_reason(scores, y, absent, reason):
    found = measure(scores, y, plain_task(y))
    names = set(plain_task(y).measured)
    assert set(found.absent) == absent
    assert set(found.figures) == names - absent
    assert all(reason in text for text in found.absent.values())


def test_one_score_that_is_not_finite_is_enough():
    scores = TWO.clone()
    scores[2, 0] = float("inf")
    assert all(
        "1 of 4" in text for text in measure(scores, classes(0, 1, 1, 0), CLASSIFICATION).absent.values()
    )
    assert not measure(scores, classes(0, 1, 1, 0), CLASSIFICATION).figures
    assert quick(scores, classes(0, 1, 1, 0), CLASSIFICATION) == {}


@given(
    st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=6),
    st.booleans(),
)
def test_every_metric_can_be_written_as_json_for_any_scores(pairs, values):
    scores = torch.tensor(pairs)
    y = scores[:, 1].nan_to_num(0, 0, 0) if values else torch.arange(len(pairs)) % 2
    with np.errstate(all="ignore"):
        found, soon = measure(scores, y, plain_task(y)), quick(scores, y, plain_task(y))
    names = set(plain_task(y).measured)
    assert set(found.figures) | set(found.absent) == names
    assert not set(found.figures) & set(found.absent)
    json.dumps([to_plain(found), soon], allow_nan=False)


def test_plain_values_hold_the_reasons_too():
    measured = Measured({"loss": 1.0}, {"auc": "no"})
    assert to_plain(measured) == {"loss": 1.0, "absent": {"auc": "no"}}
    assert from_plain(Measured, to_plain(measured)) == measured
    assert to_plain(Measured({"loss": 1.0})) == {"loss": 1.0}


def test_a_mean_and_a_worst_value_name_their_number_of_silos():
    silos = {"a": {"auc": 0.5, "loss": 1.0}, "b": {"loss": 3.0}, "c": {"auc": 0.9, "loss": 5.0}}
    mean, counts = means(silos)
    assert mean == {"auc": pytest.approx(0.7), "loss": pytest.approx(3.0)}
    assert counts == {"auc": 2, "loss": 3}
    assert worst_of("auc", silos) == WorstSilo("a", {"auc": 0.5}, 2)
    assert worst_of("loss", silos) == WorstSilo("c", {"loss": 5.0}, 3)
    assert worst_of("r2", silos) == WorstSilo()
    assert to_plain([worst_of("auc", silos), worst_of("r2", silos)]) == [
        {"silo": "a", "auc": 0.5, "silos": 2},
        {},
    ]


def test_a_row_without_finite_scores_is_wrong_whatever_its_class():
    scores = torch.tensor([[torch.nan, torch.nan], [torch.inf, 0.0], [2.0, -torch.inf], [0.0, torch.nan]])
    for label in (0, 1):
        assert correct(scores, classes(*[label] * 4)).tolist() == [False, False, label == 0, False]
