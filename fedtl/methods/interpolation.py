"""One model between two, in the space of their weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.methods.candidate import Candidate
from fedtl.models.state import State

POINTS = 11  # shares 0, 0.1, ..., 1
Losses = Callable[[State], Tensor]  # of a model on each validation row [N], with exact statistics refitted


@dataclass(frozen=True)
class Interpolation:
    """
    Network interpolation (DNI: Wang et al., 2019; WiSE-FT: Wortsman et al., 2022): the weights (1 - a) u + a v of two models u
    and v, with the share a that is best on validation rows.

    Between models of one start the loss may stay low all along (linear mode connectivity: Frankle et al., 2020), and then the
    best model can be better than both; between others it rises. ``by_stage``: a share for each stage of the body and the head,
    one after the other, from the best common share on.
    """

    ends: tuple[Candidate, Candidate] = (Candidate.SHARED, Candidate.TUNED)
    by_stage: bool = False

    def __post_init__(self) -> None:
        if self.ends[0] == self.ends[1] or Candidate.INTERPOLATED in self.ends:
            raise ValueError("ends: name two different models, neither of them interpolated")


@dataclass(frozen=True)
class Between:
    """
    The best model between two. ``curve``: the mean validation loss at each common share. ``shares``: the chosen ones, one a
    group of tensors.
    """

    state: State
    curve: tuple[float, ...]
    shares: tuple[float, ...]


def between(u: State, v: State, groups: Sequence[frozenset[str]], shares: Sequence[float]) -> State:
    """Return (1 - a) u + a v, with the share of each group of tensors; integers, and what is in no group, are v's."""
    share_of = {name: share for group, share in zip(groups, shares, strict=True) for name in group}
    return {
        name: torch.lerp(u[name], tensor, share_of[name])
        if name in share_of and tensor.is_floating_point()
        else tensor
        for name, tensor in v.items()
    }


def best_between(
    u: State, v: State, groups: Sequence[frozenset[str]], by_stage: bool, losses: Losses
) -> Between:
    """
    Return the best model between ``u`` and ``v``; of several as good the one nearest to ``v``, and ``v`` without validation rows.
    """

    def loss(shares: Sequence[float]) -> float:
        rows = losses(between(u, v, groups, shares))
        return float(rows.double().mean()) if len(rows) else 0.0

    grid = [number / (POINTS - 1) for number in range(POINTS)]
    curve = [loss([share] * len(groups)) for share in grid]
    shares = [grid[_lowest(curve)]] * len(groups)
    for number in reversed(range(len(groups))) if by_stage else ():
        tried = [[*shares[:number], share, *shares[number + 1 :]] for share in grid]
        shares = tried[_lowest([loss(one) for one in tried])]
    return Between(between(u, v, groups, shares), tuple(curve), tuple(shares))


def _lowest(values: Sequence[float]) -> int:
    """Return the last number with the lowest finite value; without any the last one."""
    table = torch.tensor(values, dtype=torch.float64).nan_to_num(nan=torch.inf)
    return int((table == table.min()).nonzero().max())
