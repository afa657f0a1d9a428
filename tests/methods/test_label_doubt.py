"""Leave-one-out against refitting without each row (scikit-learn), confident learning against loops, and flips that are found."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from fedtl.methods.label_doubt import MIN_ROWS, label_doubts, leave_one_out
from fedtl.methods.ridge import STRENGTHS, best_scale


def blobs(n, classes, spread, seed=0):
    """Features [n, 5] around one point a class, and their classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return torch.from_numpy(
        rng.normal(size=(classes, 5))[y] + spread * rng.normal(size=(n, 5))
    ), torch.from_numpy(y)


def test_leave_one_out_is_what_ridge_regression_without_the_row_says():
    x, y = blobs(30, 3, 0.8)
    onehot, found = np.eye(3)[y], {}
    for strength in STRENGTHS:
        penalty = strength * float((x - x.mean(0)).square().sum()) / 5
        rows = [np.delete(np.arange(30), row) for row in range(30)]
        heads = [Ridge(alpha=penalty).fit(x[kept], onehot[kept]) for kept in rows]
        found[strength] = np.stack([head.predict(x[row : row + 1])[0] for row, head in enumerate(heads)])
    best = torch.from_numpy(min(found.values(), key=lambda one: ((one - onehot) ** 2).sum()))
    expected = (best_scale(best, y) * best).softmax(1)
    torch.testing.assert_close(leave_one_out(x, y, 3), expected, rtol=1e-6, atol=1e-9)


def test_the_share_and_the_rows_are_those_of_the_confident_joint():
    x, y = blobs(90, 3, 0.7)
    y[:9] = (y[:9] + 1) % 3
    p, labels = leave_one_out(x, y, 3).numpy(), y.numpy()
    expected = np.array([p[labels == label, label].mean() for label in range(3)])
    joint, doubtful = np.zeros((3, 3)), {}
    for row in range(90):
        sure = [label for label in range(3) if p[row, label] >= expected[label]]
        if sure:
            likely = max(sure, key=lambda label: p[row, label])
            joint[labels[row], likely] += 1
            if likely != labels[row]:
                doubtful[row] = p[row, likely] / p[row, labels[row]]
    scaled = joint / joint.sum(1, keepdims=True) * np.bincount(labels)[:, None]
    found = label_doubts(x, y, 3)
    assert found.share == pytest.approx(1 - np.trace(scaled) / 90)
    assert found.rows.tolist() == sorted(doubtful, key=lambda row: -doubtful[row])
    assert found.odds.tolist() == pytest.approx(sorted(doubtful.values(), reverse=True))


def test_flipped_labels_are_found_and_right_ones_are_not():
    x, y = blobs(300, 4, 0.25)
    assert label_doubts(x, y, 4).share < 0.01
    flipped = y.clone()
    flipped[:60] = (y[:60] + 1 + torch.arange(60) % 3) % 4
    found = label_doubts(x, flipped, 4)
    assert found.share == pytest.approx(0.2, abs=0.03)
    assert set(found.rows.tolist()) <= set(range(60))
    assert len(found.rows) >= 54
    assert (found.likely == y[found.rows]).all()
    assert (found.given == flipped[found.rows]).all()


def test_nothing_is_said_of_few_rows_or_of_one_class():
    x, y = blobs(MIN_ROWS - 1, 2, 0.5)
    assert label_doubts(x, y, 2) is None
    x, y = blobs(MIN_ROWS, 1, 0.5)
    assert label_doubts(x, y, 2) is None
