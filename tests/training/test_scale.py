"""The unit of a column or of the target never matters: whatever it is multiplied with or shifted by, a model is the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.data.dataset import pool
from fedtl.data.prepare import prepare_silo
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.tasks.cox import Cox
from fedtl.tasks.regression import REGRESSION
from fedtl.tasks.survival import Survival
from fedtl.training.batches import make_batch
from fedtl.training.evaluate import scores_of
from fedtl.training.metrics import measure, quick

RNG = np.random.default_rng(0)
X, NOISE = RNG.normal(size=(60, 3)), RNG.normal(size=60)
Y = X @ [1.0, -2.0, 0.5] + 0.3 * NOISE
SETTINGS = DataSettings(source="table", task="regression")
CPU = torch.device("cpu")
# A unit of 1e-30 to 1e30, either sign, and a zero point up to a million spreads away.
UNITS = st.tuples(
    st.floats(-30, 30).map(lambda power: 10.0**power), st.sampled_from([-1, 1]), st.floats(-1e6, 1e6)
).map(lambda drawn: (drawn[0] * drawn[1], drawn[2] * drawn[0]))


def prepared(x, y):
    return prepare_silo(Raw(Part(x, y), columns=("a", "b", "c")), SETTINGS, "s", 0, (), frozenset())


PLAIN = prepared(X, Y)


def figures(made, weights):
    """The metrics of a linear model on the test rows, in the label's unit."""
    net = torch.nn.Linear(3, 1)
    net.load_state_dict({"weight": torch.tensor([weights]), "bias": torch.zeros(1)})
    test = made.evaluation_set.test
    scores = scores_of(net, test.x, made.data, CPU, "float32")
    return measure(scores, test.y, REGRESSION).figures, quick(scores, test.y, REGRESSION)


def test_metrics_are_those_of_numpy_in_the_unit_of_the_label():
    made = prepared(X, 1.7e9 + 20 * Y)
    test, weights = made.evaluation_set.test, [0.4, -0.8, 0.2]
    value = made.inputs.y_mean + made.inputs.y_std * (test.x.double().numpy() @ weights)
    error = np.sqrt(np.mean((value - test.y.numpy()) ** 2))
    assert np.isclose(figures(made, weights)[0]["rmse"], error, rtol=1e-5)
    assert 1 < error < 60


@settings(max_examples=12, deadline=None)
@given(UNITS, UNITS, UNITS, UNITS)
def test_units_change_neither_what_is_trained_on_nor_what_is_measured(a, b, c, target):
    plain = PLAIN
    other = prepared(
        np.stack([column * unit + zero for column, (unit, zero) in zip(X.T, (a, b, c), strict=True)], 1),
        Y * target[0] + target[1],
    )
    signs = np.sign([a[0], b[0], c[0]])
    rows = torch.arange(len(plain.data.train))
    one, two = (make_batch(made.data, rows, None, CPU) for made in (plain, other))
    assert one.x.dtype == two.x.dtype == one.y.dtype == two.y.dtype == torch.float32
    assert np.allclose(one.x.numpy(), two.x.numpy() * signs, atol=1e-5)
    assert np.allclose(one.y.numpy(), two.y.numpy() * np.sign(target[0]), atol=1e-5)
    assert torch.equal(pool([other.data]).train.y, two.y)
    weights = np.array([0.4, -0.8, 0.2])
    before, quick_before = figures(plain, weights.tolist())
    after, quick_after = figures(other, (weights * signs * np.sign(target[0])).tolist())
    assert np.isclose(before["r2"], after["r2"], atol=1e-4)
    assert np.isclose(before["rmse"], after["rmse"] / abs(target[0]), rtol=1e-4)
    assert np.isclose(quick_before["rmse"], quick_after["rmse"] / abs(target[0]), rtol=1e-4)


def test_a_column_that_varies_by_rounding_alone_is_constant():
    x = X.copy()
    x[:, 1] = 1e9
    x[::2, 1] = np.nextafter(1e9, 2e9)
    made = prepared(x, Y)
    assert made.inputs.std[1] == 1.0
    assert made.data.train.x[:, 1].abs().max() < 1e-6


# Until 6, in eighths, which add up exactly.
TIMES = np.stack([RNG.integers(8, 48, 60) / 8, RNG.integers(0, 2, 60)], 1)
ENDS = [1.5, 2.5, 4.5]


def survival(task, unit, zero):
    """The losses of a batch, and the metrics, of a linear model, with all times and horizons in another unit and from another zero."""
    ends = [unit * (end + zero) for end in ENDS] if task is Survival else []
    chosen = DataSettings(source="table", task=task.name, event="event", horizons=ends, test=0.5)
    y = np.stack([unit * (TIMES[:, 0] + zero), TIMES[:, 1]], 1)
    made = prepare_silo(Raw(Part(X, y), columns=("a", "b", "c")), chosen, "s", 0, (), frozenset())
    net = torch.nn.Linear(3, chosen.predicted.width(()))
    with torch.no_grad():
        net.weight.copy_(
            torch.tensor([[0.4, -0.8, 0.2], [0.1, 0.5, -0.3], [-0.7, 0.2, 0.6]][: len(net.weight)])
        )
        net.bias.zero_()
    batch = make_batch(pool([made.data]), torch.arange(len(made.data.train)), None, CPU)
    test = made.evaluation_set.test
    figures = measure(scores_of(net, test.x, made.data, CPU, "float32"), test.y, chosen.predicted).figures
    return chosen.predicted.losses(net(batch.x), batch.y), figures


@pytest.mark.parametrize("task", [Survival, Cox])
@settings(max_examples=12, deadline=None)
@given(st.integers(-20, 20).map(lambda power: 2.0**power), st.integers(0, 2_000_000_000))
def test_neither_the_unit_nor_the_zero_of_time_changes_survival(task, unit, zero):
    losses, figures = survival(task, 1.0, 0)
    other, found = survival(task, unit, zero)
    assert torch.equal(losses, other)
    assert len(figures) == len(task.metrics)
    assert found == pytest.approx(figures, abs=1e-9)
