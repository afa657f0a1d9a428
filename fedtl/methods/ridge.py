"""A head that is fitted in closed form: as a step after the last round, and as a method on a body that is not trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fedtl._util.settings import Count, Weight
from fedtl.errors import ConfigError
from fedtl.methods.base import HEAD, Finish, LabelledFeatures, Method, Site
from fedtl.methods.choose import choose_mix
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.methods.ridge_sums import Moments, Projection, Ridge, RidgeSums, Rows
from fedtl.methods.sets import SUMMARY, Sets
from fedtl.models.state import State

STRENGTHS = tuple(
    10.0 ** (half / 2) for half in range(-8, 5)
)  # of the penalty, in mean variances of a feature
DEFAULT_STRENGTH = 0.1  # without validation rows
SHARES = (
    0.5,
    0.0,
    0.25,
    0.75,
    1.0,
)  # of the received sums in a mix; the first unless another is clearly better
LOG_SCALES = (-3.0, 7.0)  # natural logarithms of the smallest and largest scale of the scores

PLAIN = Rows()
Sums = Literal["own", "shared", "mix"]


@dataclass(frozen=True)
class FittedHead:
    """A head's weights [D, C] and bias [C], and its loss on each of the rows that chose it [N]."""

    weight: Tensor
    bias: Tensor
    losses: Tensor

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


@dataclass(frozen=True)
class RidgeHead(Finish):
    """
    Fit the head in closed form to the features of the body as it is.

    ``sums``: of the silo's own training rows, those of all silos as received (from the method's summary), or a mix
    A = a shared + (1 - a) own, with a = 1/2 unless validation rows clearly say that another of SHARES is better
    (``choose_mix``). The penalty is the one of STRENGTHS with the lowest validation loss.

    ``keep_better``: the head of the state stays where its validation loss is not higher.

    Fitted scores of classes are near 0 and 1, which are not logits, so they are multiplied by one number that minimises the
    log loss on validation rows (temperature scaling, Guo et al., 2017), with the label smoothing 1 / (N + 1) so that it stays
    finite where all N rows are right.
    """

    sums: Sums = "own"
    form: Rows = PLAIN
    keep_better: bool = False
    trained = HEAD

    def __call__(self, site: Site, state: State, sets: Sets) -> State:
        weight, bias = head_names(state)
        width, features = state[weight].shape
        train, val = site.features(state, "train"), site.features(state, "val")
        if not len(train) and self.sums == "own":
            return state
        if train.task is not None and not train.task.least_squares:
            return state
        chosen_by = val if len(val) else train
        fitted = self._best(train, chosen_by, self._moments(sets, train, width), chosen=bool(len(val)))
        if self.keep_better and len(val):
            now = row_losses(val.features @ state[weight].T.cpu() + state[bias].cpu(), val.y)
            if float(now.mean()) <= fitted.loss:
                return state
        full = self.form.projection.undo(fitted.weight, features)
        return state | {weight: full.T.to(state[weight]).contiguous(), bias: fitted.bias.to(state[bias])}

    def _moments(self, sets: Sets, train: LabelledFeatures, width: int) -> list[Moments]:
        """Return the moments of which the head may be made; the first is the default."""
        own = self.form.moments(train, width) if len(train) else None
        if self.sums == "own":
            return [] if own is None else [own]
        sums = RidgeSums(self.form)
        shared = sums.moments(sets[SUMMARY][sums.name], train.y, width)
        if self.sums == "shared" or own is None:
            return [shared]
        return [shared.mixed_with(own, share) for share in SHARES]

    def _best(
        self, train: LabelledFeatures, rows: LabelledFeatures, moments: Sequence[Moments], chosen: bool
    ) -> FittedHead:
        """Return the best head of the moments by these rows; without choice the default one, with their scale."""
        projected = LabelledFeatures(self.form.projection.of(rows.features.double()), rows.y)
        if not chosen:
            return best_head(moments[0], projected, (DEFAULT_STRENGTH,))
        heads = [best_head(one, projected) for one in moments]
        return heads[choose_mix([head.losses for head in heads])]


def best_head(moments: Moments, rows: LabelledFeatures, strengths: Sequence[float] = STRENGTHS) -> FittedHead:
    """Return the head of these moments with the penalty that has the lowest loss on ``rows``."""
    ridge = Ridge.of(moments)
    heads = [_scaled(*ridge.head(strength * ridge.unit), rows) for strength in strengths]
    return min(heads, key=lambda head: head.loss)


def _scaled(weight: Tensor, bias: Tensor, rows: LabelledFeatures) -> FittedHead:
    """Return the head with its scores multiplied so that they are logits; values stay as they are."""
    scores = rows.features @ weight + bias
    scale = 1.0 if rows.y.is_floating_point() else best_scale(scores, rows.y)
    return FittedHead(scale * weight, scale * bias, row_losses(scale * scores, rows.y))


def best_scale(scores: Tensor, y: Tensor) -> float:
    """Return the number s that minimises the mean cross-entropy of s ``scores`` [N, C], with label smoothing 1 / (N + 1)."""
    from scipy.optimize import minimize_scalar  # takes a fifth of a second to import

    smoothing = 1 / (len(y) + 1)

    def loss(log_scale: float) -> float:
        logits = float(np.exp(log_scale)) * scores
        return float(F.cross_entropy(logits, y, label_smoothing=smoothing))

    return float(np.exp(minimize_scalar(loss, bounds=LOG_SCALES, method="bounded").x))


def row_losses(scores: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each row [N]: cross-entropy in nats, or half the squared error."""
    if y.is_floating_point():
        return (scores[:, 0] - y).pow(2) / 2
    return F.cross_entropy(scores, y, reduction="none")


def head_names(state: State) -> tuple[str, str]:
    """Return the names of the head's weight and bias. Raises ConfigError for a head that is not one linear layer."""
    names = sorted(name for name in state if name.startswith("head."))
    if not is_linear(state):
        raise ConfigError(
            f"a ridge head needs a model whose classifier is one linear layer with a bias; this one has {', '.join(names)}"
        )
    return names[1], names[0]


def is_linear(state: State) -> bool:
    """Return whether the head of a model is one linear layer with a bias."""
    names = sorted(name for name in state if name.startswith("head."))
    return [state[name].dim() for name in names] == [1, 2]


def ridge(
    sums: Sums = "mix",
    dims: Count = 0,
    seed: Count = 0,
    centre: bool = False,
    clip: Weight = 0.0,
    statistics: Literal["exact", "initial"] = "exact",
) -> Method:
    """
    Fed3R (Fani et al., 2024), AFL (He et al., 2025): the body is not trained, and one round of exact sums gives each silo a
    head in closed form. ``sums``: those of all silos ("shared"), of the silo ("own"), or a mix that validation rows choose.
    ``dims``, ``seed``, ``centre``: see ``Projection``. ``clip``: see ``Rows``; [privacy] needs one. ``statistics``: features
    are of the initial body with the exact statistics of the silo's training inputs, or with its own.
    """
    form = Rows(Projection(dims, seed, centre), clip)
    summaries = () if sums == "own" else (RidgeSums(form),)
    return Method(
        shared=frozenset(),
        phases=(),
        summaries=summaries,
        finish=(RidgeHead(sums, form),),
        exact_statistics=ExactStatistics.OWN if statistics == "exact" else ExactStatistics.NEVER,
    )
