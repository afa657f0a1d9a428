"""
Federated averaging of linear models as a loop in numpy alone: what a linear model costs without torch. It draws its own batches, so
a round has as many steps as the other contenders' and other numbers, except where one batch holds all rows.
"""

import numpy as np
from loads import CLASSES, Load
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class NumpyLinear:
    """The contender. ``shared``: weights [classes, columns] and intercepts [classes], from the load's own initial model."""

    def __init__(self, load: Load) -> None:
        self.load, self._random = load, np.random.default_rng(0)
        tensors = load.model_spec().net(len(CLASSES)).state_dict()
        self.shared: tuple[Floats, Floats] = (
            tensors["head.weight"].numpy().copy(),
            tensors["head.bias"].numpy().copy(),
        )
        self._rows = [
            tuple((part.x.flatten(1).numpy(), part.y.numpy()) for part in (data.train, data.val))
            for data in map(load.data, load.names())
        ]

    def round(self) -> tuple[Floats, Floats]:
        total = sum(len(y) for (_, y), _ in self._rows)
        mean = [np.zeros_like(part) for part in self.shared]
        for train, val in self._rows:
            weights, intercepts = (part.copy() for part in self.shared)
            self._validate(weights, intercepts, *val)
            self._train(weights, intercepts, *train)
            for sum_, part in zip(mean, (weights, intercepts), strict=True):
                sum_ += part * (len(train[1]) / total)
        self.shared = mean[0], mean[1]
        return self.shared

    def _train(self, weights: Floats, intercepts: Floats, x: Floats, y: NDArray[np.int64]) -> None:
        """One epoch of SGD with momentum, in place."""
        load, speed, turn = self.load, np.zeros_like(weights), np.zeros_like(intercepts)
        order = self._random.permutation(len(y))
        for start in range(0, len(y), load.batch):
            rows = order[start : start + load.batch]
            inputs = x[rows]
            errors = _softmax(inputs @ weights.T + intercepts)
            errors[np.arange(len(rows)), y[rows]] -= 1
            errors /= len(rows)
            speed *= load.momentum
            speed += errors.T @ inputs
            turn *= load.momentum
            turn += errors.sum(0)
            weights -= load.lr * speed
            intercepts -= load.lr * turn

    def _validate(
        self, weights: Floats, intercepts: Floats, x: Floats, y: NDArray[np.int64]
    ) -> tuple[float, float]:
        scores = _softmax(x @ weights.T + intercepts)
        return float(-np.log(scores[np.arange(len(y)), y]).mean()), float((scores.argmax(1) == y).mean())

    def close(self) -> None:
        pass


def _softmax(scores: Floats) -> Floats:
    powers: Floats = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
