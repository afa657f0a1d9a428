"""Every task: its loss, its mix, its constant answer and its metrics, against scipy, scikit-learn and lifelines."""

import json
from itertools import pairwise
from math import prod
from typing import get_args

import lifelines
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lifelines.utils import concordance_index
from scipy import special, stats
from sklearn import metrics

from fedtl._util.labels import is_known, without_labels
from fedtl._util.records import to_plain
from fedtl.data.settings import DataSettings, InputSettings
from fedtl.models.mixed import MixedNet
from fedtl.tasks.classification import CLASSIFICATION, Classification
from fedtl.tasks.counts import Counts
from fedtl.tasks.cox import Cox
from fedtl.tasks.metrics import METRICS, figure
from fedtl.tasks.multilabel import MultiLabel
from fedtl.tasks.ordinal import Ordinal
from fedtl.tasks.registry import TASKS
from fedtl.tasks.row_metrics import Answers
from fedtl.tasks.segmentation import Segmentation
from fedtl.tasks.survival import Survival
from fedtl.training.metrics import measure

LEVELS = ("low", "middle", "high")
HORIZONS = (1.0, 2.0, 4.0)
CASES = {
    "classification": (CLASSIFICATION, LEVELS),
    "multilabel": (MultiLabel(("edema", "effusion")), ()),
    "ordinal": (Ordinal(LEVELS), ()),
    "regression": (TASKS["regression"].of(DataSettings()), ()),
    "counts": (Counts(), ()),
    "survival": (Survival(HORIZONS), ()),
    "cox": (Cox(), ()),
    "segmentation": (Segmentation(LEVELS), ()),
}
every_task = pytest.mark.parametrize("name", CASES)


def rows_of(name, count=40, seed=0):
    task, classes = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    sides = (4, 5) if task.per_pixel else ()
    scores = torch.randn(count, task.width(classes), *sides, generator=generator)
    y = task.synthetic(count * prod(sides), classes, generator)
    return task, classes, scores, y.unflatten(0, (count, *sides))


def test_the_settings_name_every_task():
    assert list(get_args(InputSettings.model_fields["task"].annotation)) == list(TASKS) == list(CASES)


@every_task
def test_every_metric_is_measured_or_absent_with_a_reason(name):
    task, _, scores, y = rows_of(name)
    found = measure(scores, y, task)
    assert {task.main, task.curve, "loss"} <= set(task.measured) <= set(METRICS)
    assert set(found.figures) | set(found.absent) == set(task.measured)
    assert set(found.absent) <= {"auc"}  # of three classes
    assert found.figures["loss"] == pytest.approx(float(task.losses(scores, y).mean()), rel=1e-5)
    assert found.figures.keys() >= task.quick(scores, y).keys()
    json.dumps(to_plain(found), allow_nan=False)


@every_task
def test_rows_without_a_label_change_no_loss_and_get_no_gradient(name):
    task, _, scores, y = rows_of(name)
    more = torch.cat([y, without_labels(3, y)])
    assert is_known(more).tolist() == [True] * 40 + [False] * 3
    free = torch.cat([scores, torch.randn(3, *scores.shape[1:])]).requires_grad_()
    losses = task.training_losses(free, more)
    torch.testing.assert_close(losses[:40], task.losses(scores, y), rtol=1e-5, atol=1e-6)
    torch.where(is_known(more), losses, 0.0).sum().backward()
    assert not free.grad[40:].any()
    assert free.grad.isfinite().all()


@every_task
def test_a_mix_has_the_mean_of_what_is_averaged(name):
    task, _, scores, _ = rows_of(name)
    other = torch.randn_like(scores)
    mixed = task.mixed([scores, other], [0.25, 0.75])
    wanted = 0.25 * task.averaged(scores.double()) + 0.75 * task.averaged(other.double())
    torch.testing.assert_close(task.averaged(mixed.double()), wanted, rtol=1e-5, atol=1e-6)
    nets = [torch.nn.Linear(4, scores.shape[1]) for _ in range(2)]
    x = torch.randn(5, 4)
    if task.per_pixel:
        nets, x = [torch.nn.Conv2d(4, scores.shape[1], 1) for _ in range(2)], torch.randn(5, 4, 3, 3)
    exported = MixedNet(nets, (0.25, 0.75), task)(x)
    torch.testing.assert_close(
        exported, task.mixed([net(x) for net in nets], [0.25, 0.75]), rtol=1e-4, atol=1e-5
    )


@every_task
def test_no_other_constant_has_a_much_lower_loss(name):
    task, classes, _, y = rows_of(name, 400)
    width = task.width(classes)
    best = task.constant_scores(y, width)

    def loss(scores):
        return float(task.losses(task.repeated(scores, y), y).mean())

    for step in torch.eye(width):
        assert loss(best) <= min(loss(best + 0.3 * step), loss(best - 0.3 * step)) + 1e-6


@every_task
def test_answers_begin_with_a_prediction_and_name_the_outputs(name):
    task, classes, scores, _ = rows_of(name)
    first, *_ = answers = task.answers(scores, classes)
    assert len(answers) == len(scores)
    assert next(iter(first)) == "prediction"
    assert len(first) == 1 + len(task.outputs(classes))


@every_task
def test_weights_count_rows_several_times(name):
    """A metric with whole weights is that of the rows, each as often as its weight says."""
    task, _, scores, y = rows_of(name, 30)
    times = np.random.default_rng(1).integers(0, 3, 30)
    again = np.repeat(np.arange(30), times)
    for metric in set(task.measured) - ({"auc"} if name == "classification" else set()):
        one = Answers(scores.double().numpy(), y.numpy(), np.arange(30), task=task)
        rows = Answers(scores.double().numpy()[again], y.numpy()[again], np.arange(len(again)), task=task)
        found = figure(metric, one, times[None].astype(float))[0]
        assert found == pytest.approx(figure(metric, rows, np.ones((1, len(again))))[0]), metric


def test_counts_are_poisson():
    _, _, scores, y = rows_of("counts")
    found, mean = measure(scores, y, Counts()).figures, scores[:, 0].exp().numpy()
    assert found["loss"] == pytest.approx(-stats.poisson.logpmf(y.numpy(), mean).mean(), rel=1e-5)
    assert found["deviance"] == pytest.approx(metrics.mean_poisson_deviance(y.numpy(), mean), rel=1e-5)
    assert found["d2"] == pytest.approx(metrics.d2_tweedie_score(y.numpy(), mean, power=1), rel=1e-4)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(y.numpy(), mean), rel=1e-5)
    assert Counts().valid(np.array([0, 3, 1.5, -1, np.nan])).tolist() == [True, True, False, False, False]


def test_ordered_levels_are_a_distribution():
    task, _, scores, y = rows_of("ordinal")
    rows = task.answers(scores, ())
    p = np.array([[row[f"p({level})"] for level in LEVELS] for row in rows])
    np.testing.assert_allclose(p.sum(1), 1)
    guess = (np.cumsum(p, 1)[:, :-1] < 0.5).sum(1)
    assert [row["prediction"] for row in rows] == [LEVELS[level] for level in guess]
    found = measure(scores, y, task).figures
    assert found["loss"] == pytest.approx(metrics.log_loss(y, p), rel=1e-5)
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(y, guess, weights="quadratic"))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(y, guess))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, guess))


def test_labels_that_are_not_known_count_for_nothing():
    task, _, scores, y = rows_of("multilabel")
    y[:5, 1] = torch.nan
    found = measure(scores, y, task).figures
    p, known = special.expit(scores.numpy()), ~y.isnan().numpy()
    areas = [metrics.roc_auc_score(y[known[:, k], k], p[known[:, k], k]) for k in (0, 1)]
    f1 = [metrics.f1_score(y[known[:, k], k], p[known[:, k], k] > 0.5) for k in (0, 1)]
    assert found["macro_auc"] == pytest.approx(np.mean(areas))
    assert found["macro_f1"] == pytest.approx(np.mean(f1))
    losses = [
        metrics.log_loss(row[there], p[n][there], labels=[0, 1])
        for n, (row, there) in enumerate(zip(y, known, strict=True))
    ]
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_further_metrics_of_classes_are_those_of_scikit_learn():
    task, _, scores, y = rows_of("classification", 200)
    found, p = measure(scores, y, task).figures, special.softmax(scores.double().numpy(), 1)
    assert found["macro_auc"] == pytest.approx(
        metrics.roc_auc_score(y, p, multi_class="ovr", average="macro")
    )
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(y, p.argmax(1), average="macro"))
    sure, right = p.max(1), p.argmax(1) == y.numpy()
    edges = np.linspace(0, 1, 16)
    bins = [(sure > low) & (sure <= high) for low, high in pairwise(edges)]
    gaps = [abs(right[b].mean() - sure[b].mean()) * b.mean() for b in bins if b.any()]
    assert found["ece"] == pytest.approx(sum(gaps))


def test_hazards_are_the_likelihood_of_each_interval():
    """Of hazards 1/2 and 1/4: an event in the second interval, one after the last horizon, and rows censored in the second."""
    task = Survival((1.0, 2.0))
    scores = torch.tensor([[0.0, np.log(1 / 3)]], dtype=torch.float64).expand(5, -1)
    y = torch.tensor([[1.5, 1], [2.0, 1], [3.0, 1], [1.5, 0], [2.0, 0]], dtype=torch.float64)
    wanted = [1 / 2 * 1 / 4, 1 / 2 * 1 / 4, 1 / 2 * 3 / 4, 1 / 2, 1 / 2 * 3 / 4]
    torch.testing.assert_close((-task.losses(scores, y)).exp(), torch.tensor(wanted, dtype=torch.float64))
    assert list(task.answers(scores, ())[0].values()) == pytest.approx([3 / 4 + 7 / 16, 1 / 2, 3 / 8])


def test_survival_is_measured_as_lifelines_does():
    task, _, scores, y = rows_of("survival", 80)
    y[:10, 0] = y[10:20, 0]  # ties
    found, curves = measure(scores, y, task).figures, task.curves(scores.double().numpy())
    time, event = y.double().numpy().T
    steps = np.hstack([np.ones((len(curves), 1)), curves])
    restricted = (steps[:, 1:] + steps[:, :-1]) / 2 @ np.diff(HORIZONS, prepend=0)
    assert found["concordance"] == pytest.approx(concordance_index(time, restricted, event))
    censoring = lifelines.KaplanMeierFitter().fit(time + 1e-9 * event * -1, 1 - event)
    survival = lifelines.KaplanMeierFitter().fit(time, event)
    briers, gaps = [], []
    for k, end in enumerate(HORIZONS):
        parts = np.where(time > end, (1 - curves[:, k]) ** 2 / censoring.predict(end), 0.0)
        ended = (time <= end) & (event == 1)
        parts[ended] = curves[ended, k] ** 2 / censoring.predict(time[ended] - 1e-9).to_numpy()
        briers.append(parts.mean())
        gaps.append(abs(curves[:, k].mean() - survival.predict(end)))
    assert found["brier"] == pytest.approx(np.mean(briers))
    assert found["calibration"] == pytest.approx(np.mean(gaps))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pandas.*:Warning")
def test_a_linear_cox_model_has_the_coefficients_of_lifelines():
    import pandas as pd

    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    time, censored = rng.exponential(np.exp(-x @ [1.0, -0.5])), rng.exponential(2.0, 120)
    y = np.stack([np.minimum(time, censored), time <= censored], 1)
    frame = pd.DataFrame(x, columns=["a", "b"]).assign(time=y[:, 0], event=y[:, 1])
    wanted = lifelines.CoxPHFitter().fit(frame, "time", "event")
    weights = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    solver = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = Cox().losses(inputs @ weights, labels).sum()
        value.backward()
        return value

    solver.step(loss)
    np.testing.assert_allclose(weights.detach()[:, 0], wanted.params_, atol=1e-4)
    assert loss().item() == pytest.approx(-wanted.log_likelihood_, rel=1e-6)
    scores = (inputs @ weights).detach()
    found = measure(scores, labels, Cox()).figures
    assert found["concordance"] == pytest.approx(wanted.concordance_index_)
    assert found["loss"] == pytest.approx(-wanted.log_likelihood_ / 120, rel=1e-6)


def test_tied_times_are_in_each_others_risk_set():
    scores, y = torch.zeros(4, 1), torch.tensor([[1.0, 1], [1.0, 1], [2.0, 0], [0.5, 0]])
    torch.testing.assert_close(Cox().losses(scores, y), torch.tensor([3.0, 3.0, 1.0, 1.0]).log() * y[:, 1])


def test_class_weights_and_focal_change_training_only():
    scores, y = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 2, -1])
    plain = F.cross_entropy(scores, y, ignore_index=-1, reduction="none")
    own = Classification(given="balanced").at_silo(LEVELS, y)
    assert own.weights == pytest.approx((5 / 9, 5 / 3, 5 / 3))
    torch.testing.assert_close(
        own.training_losses(scores, y)[:5],
        F.cross_entropy(scores, y, torch.tensor(own.weights), ignore_index=-1, reduction="none")[:5],
    )
    named = Classification.of(DataSettings(class_weights={"middle": 3.0}, focal=2.0)).at_silo(LEVELS, y)
    p = scores.softmax(1).gather(1, y.clamp_min(0)[:, None])[:, 0]
    wanted = torch.tensor([1, 1, 1, 3, 1, 0]) * (1 - p) ** 2 * plain
    torch.testing.assert_close(named.training_losses(scores, y), wanted)
    torch.testing.assert_close(named.losses(scores, y), plain)
    sure = torch.tensor([[200.0, 0.0]], requires_grad=True)
    Classification(focal=0.5).training_losses(sure, torch.tensor([0])).sum().backward()
    assert sure.grad.isfinite().all()
