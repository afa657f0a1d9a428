"""A linear head that is trained by gradient steps on the support, as ``Tune`` trains a head at home."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl._util.randomness import numpy_generator
from fedtl.methods.base import LabelledFeatures, Part, Phase
from fedtl.methods.ridge import row_losses
from fedtl.methods.tune import Tune
from fedtl.models.roles import Role
from fedtl.models.state import State

EPOCHS, BATCH, MOMENTUM = 50, 32, 0.9
WEIGHT, BIAS = "head.weight", "head.bias"


@dataclass(frozen=True)
class FeatureSite:
    """What ``Tune`` asks of a silo (``methods.base.Site``), where the model is a head and the rows are features."""

    rows: LabelledFeatures
    lr: float = 1.0

    def train(self, state: State, phase: Phase, lr: float | None = None, repeat: int = 0) -> State:
        """Return the head after one epoch of SGD on the cross-entropy: its gradient is (softmax - one-hot) times features."""
        # In numpy: torch takes three times as long for matrices as small as these.
        weight, bias = state[WEIGHT].numpy().copy(), state[BIAS].numpy().copy()
        rows, aim = self.rows.features.numpy(), F.one_hot(self.rows.y, len(bias)).float().numpy()
        steps, rate = (np.zeros_like(weight), np.zeros_like(bias)), self.lr if lr is None else lr
        order = numpy_generator("linear head", repeat).permutation(len(aim))
        for batch in np.array_split(order, -(-len(aim) // BATCH)):
            x = rows[batch]
            scores = x @ weight.T + bias
            powers = np.exp(scores - scores.max(1, keepdims=True))
            error = (powers / powers.sum(1, keepdims=True) - aim[batch]) / len(batch)
            for step, gradient, moved in zip(steps, (error.T @ x, error.sum(0)), (weight, bias), strict=True):
                step *= MOMENTUM
                step += gradient
                moved -= rate * step
        return {WEIGHT: torch.from_numpy(weight), BIAS: torch.from_numpy(bias)}

    def adapted(self, state: State, moved: frozenset[Role]) -> State:
        return state

    def scores(self, state: State) -> Tensor:
        return self.rows.features @ state[WEIGHT].T + state[BIAS]

    def losses(self, state: State, rows: Part = "val") -> Tensor:
        own = self.features(state, rows)  # there are no validation rows
        return row_losses(own.features @ state[WEIGHT].T + state[BIAS], own.y)

    def features(self, state: State, rows: Part) -> LabelledFeatures:
        return self.rows if rows == "train" else LabelledFeatures(self.rows.features[:0], self.rows.y[:0])


def linear(support: LabelledFeatures, width: int, queries: Tensor) -> Tensor:
    """
    Fine-tuning of a linear head only (the baseline of Chen et al., 2019): 50 epochs of the cross-entropy from zero, with
    the schedule of ``Tune``. Features are centred and divided by their root mean squared length, so that one learning rate fits
    all bodies.
    """
    centre = support.features.mean(0)
    length = (support.features - centre).pow(2).sum(1).mean().sqrt().clamp_min(1e-12)
    site = FeatureSite(LabelledFeatures((support.features - centre) / length, support.y))
    zero = {WEIGHT: torch.zeros(width, support.features.shape[1]), BIAS: torch.zeros(width)}
    head = Tune("head", EPOCHS, "train", ridge_head=False)(site, zero, {})
    return (queries - centre) / length @ head[WEIGHT].T + head[BIAS]
