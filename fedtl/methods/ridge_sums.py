"""
Ridge regression of the labels on features, from sums over rows (Fed3R, Fani et al., 2024; AFL, He et al., 2025).

Let phi = [f; 1] for a row with features f, y its label (one-hot, or a value), A = mean phi phi^T and B = mean phi y^T. The
head minimises mean ||y - W^T f - b||^2 + lambda ||W||^2; the bias has no penalty. A and B over the rows of all silos are the
weighted means of the silos' own, so one round gives what the pooled rows would give, whatever the order of the answers.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedtl._util.randomness import torch_generator
from fedtl.errors import ConfigError
from fedtl.methods.base import LabelledFeatures
from fedtl.methods.losses import Forward
from fedtl.methods.summary import MAX_NUMBERS, Summary

VALUE_LIMIT = (
    3.0  # standard deviations to which the values of a regression are limited where rows are clipped
)


@dataclass(frozen=True)
class Projection:
    """
    A public linear map of features. ``centre``: the mean over the D features of a row is subtracted from each, which takes
    away most of what features that are never negative have in common. ``dims``: then they become R^T f with a random
    matrix R [D, dims] of independent normal entries of variance 1 / dims, which keeps lengths on average (Johnson and
    Lindenstrauss, 1984); 0, or not below D: without R.
    """

    dims: int = 0
    seed: int = 0
    centre: bool = False

    def size(self, features: int) -> int:
        """Return the number of projected features."""
        return self.dims if 0 < self.dims < features else features

    def of(self, features: Tensor) -> Tensor:
        """Return the projected features [N, size]."""
        if self.centre:
            features = features - features.mean(1, keepdim=True)
        if self.size(features.shape[1]) == features.shape[1]:
            return features
        return features @ _random_matrix(features.shape[1], self.dims, self.seed).to(features)

    def undo(self, weight: Tensor, features: int) -> Tensor:
        """Return the weights [features, C] on features that act as ``weight`` [size, C] does on projected ones."""
        if self.size(features) < features:
            weight = _random_matrix(features, self.dims, self.seed).to(weight) @ weight
        return weight - weight.mean(0) if self.centre else weight


@lru_cache(8)
def _random_matrix(features: int, dims: int, seed: int) -> Tensor:
    generator = torch_generator("ridge", seed, features, dims)
    return torch.randn(features, dims, generator=generator, dtype=torch.float64) / math.sqrt(dims)


@dataclass(frozen=True)
class Moments:
    """``second`` [m, m]: the mean of phi phi^T; ``cross`` [m, C]: the mean of phi y^T; the last of m entries is the bias'."""

    second: Tensor
    cross: Tensor

    def mixed_with(self, other: "Moments", share: float) -> "Moments":
        """Return ``share`` times these moments plus 1 - ``share`` times the others."""
        return Moments(
            share * self.second + (1 - share) * other.second, share * self.cross + (1 - share) * other.cross
        )


@lru_cache(8)
def _upper(size: int) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(size, size)
    return first, second


def targets(y: Tensor, width: int) -> Tensor:
    """Return what the head is fitted to [N, width]: one-hot classes, or values."""
    return y[:, None].double() if y.is_floating_point() else F.one_hot(y.long(), width).double()


@dataclass(frozen=True)
class Rows:
    """
    How a row's phi and y are made of its features and its label. ``clip``: a phi that is longer is scaled down to this
    length, and in regression y with it, limited to VALUE_LIMIT standard deviations; 0: no limit. A clip of 1 makes every phi
    1 long. With a clip, phi is counted in clips, so that it is at most 1 long.
    """

    projection: Projection = Projection()
    clip: float = 0.0

    def __call__(self, features: Tensor, y: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return phi [N, m] and y [N, width], float64."""
        projected = self.projection.of(features.double())
        phi, aim = torch.cat([projected, projected.new_ones(len(projected), 1)], 1), targets(y, width)
        if not self.clip:
            return phi, aim
        length = phi.norm(dim=1, keepdim=True)
        phi = phi / length.clamp_min(self.clip)
        if y.is_floating_point():
            aim = aim.clamp(-VALUE_LIMIT, VALUE_LIMIT) / length.clamp_min(self.clip)
        return phi, aim

    def moments(self, rows: LabelledFeatures, width: int) -> Moments:
        """Return the exact moments of rows."""
        phi, aim = self(rows.features, rows.y, width)
        return Moments(phi.T @ phi / len(phi), phi.T @ aim / len(phi))


@dataclass(frozen=True)
class Ridge:
    """Solves for the head at any strength of the penalty with one eigendecomposition of ``moments``."""

    mean: Tensor
    bias: Tensor
    values: Tensor
    vectors: Tensor
    cross: Tensor

    @classmethod
    def of(cls, moments: Moments) -> "Ridge":
        """
        Eliminate the bias, which has no penalty: with S = A_ff - A_fb A_bf / A_bb and T = B_f - A_fb B_b / A_bb,
        W = (S + lambda I)^-1 T and b = (B_b - A_bf W) / A_bb. S has no negative eigenvalue; where noise gave it one, it
        counts as 0.
        """
        constant = moments.second[-1, -1].clamp_min(1e-9)
        mean, bias = moments.second[:-1, -1] / constant, moments.cross[-1] / constant
        spread = moments.second[:-1, :-1] - constant * torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh((spread + spread.T) / 2)
        cross = vectors.T @ (moments.cross[:-1] - torch.outer(mean, moments.cross[-1]))
        return cls(mean, bias, values.clamp_min(0), vectors, cross)

    @property
    def unit(self) -> float:
        """The mean variance of a feature, by which a relative strength is multiplied."""
        return max(float(self.values.mean()), 1e-12)

    def head(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Return the weights [D, C] and the bias [C] with the penalty lambda."""
        weight = self.vectors @ (self.cross / (self.values + penalty)[:, None])
        return weight, self.bias - self.mean @ weight


@dataclass(frozen=True)
class RidgeSums(Summary):
    """
    What crosses for a shared head in closed form: each row's phi phi^T (its upper triangle; entries off the diagonal, which
    stand for two, times sqrt 2, so that the vector is as long as the matrix) and phi y^T, as one vector of
    m (m + 1) / 2 + m C numbers. A row without a label counts as zeros.

    Where rows are clipped, ||phi|| <= 1 and ||y|| <= 1 (in regression: VALUE_LIMIT, by which phi y^T is divided), so the vector is at most
    sqrt(||phi||^4 + ||phi||^2 ||y||^2) <= sqrt 2 long.
    """

    form: Rows = Rows()
    name: str = "ridge"
    by_label = True
    every_round = False
    exact_statistics = True

    @property
    def bound(self) -> float:  # type: ignore[override]
        return math.sqrt(2) if self.form.clip else math.inf

    def rows(self, out: Forward) -> Tensor:
        width, known = out.scores.shape[1], out.batch.labelled
        y = out.batch.y.where(known, torch.zeros_like(out.batch.y))
        phi, aim = self.form(out.features, y, width)
        outer = upper_triangle(phi)
        cross = phi[:, :, None] * aim[:, None, :] / self._aim_unit(y)
        return torch.cat([outer, cross.flatten(1)], 1) * known[:, None]

    def moments(self, mean: Tensor, y: Tensor, width: int) -> Moments:
        """Return the moments of a received mean; ``y`` tells classes from values."""
        vector = mean.double().cpu()
        size = round(math.sqrt((width + 0.5) ** 2 + 2 * len(vector)) - width - 0.5)
        triangle = size * (size + 1) // 2
        cross = vector[triangle:].view(size, width)
        return Moments(matrix_of(vector[:triangle]), cross * self._aim_unit(y))

    def _aim_unit(self, y: Tensor) -> float:
        return VALUE_LIMIT if self.form.clip and y.is_floating_point() else 1.0

    def shape(self, features: int, width: int) -> tuple[int, ...]:
        size = self.form.projection.size(features) + 1
        numbers = size * (size + 1) // 2 + size * width
        if numbers > MAX_NUMBERS:
            raise ConfigError(
                f"the sums of a ridge head on {features} features are {numbers} numbers, and at most {MAX_NUMBERS} may leave; set "
                "method.dims, for example to 256"
            )
        return (numbers,)


def upper_triangle(phi: Tensor) -> Tensor:
    """
    Return the upper triangle of phi phi^T of each row [N, m (m + 1) / 2]; entries off the diagonal, which stand for two, times
    sqrt 2, so that it is as long as the matrix.
    """
    first, second = (index.to(phi.device) for index in _upper(phi.shape[1]))
    return phi[:, first] * phi[:, second] * _twice(first, second).to(phi)


def matrix_of(triangle: Tensor) -> Tensor:
    """Return the matrix [m, m] of a mean of ``upper_triangle``."""
    size = round(math.sqrt(0.25 + 2 * len(triangle)) - 0.5)
    first, second = (index.to(triangle.device) for index in _upper(size))
    entries = triangle / _twice(first, second).to(triangle)
    matrix = triangle.new_zeros(size, size)
    matrix[first, second] = entries
    matrix[second, first] = entries
    return matrix


def _twice(first: Tensor, second: Tensor) -> Tensor:
    """Return sqrt 2 for entries off the diagonal, and 1 for those on it; float64."""
    return (1 + (first != second).double()).sqrt()
