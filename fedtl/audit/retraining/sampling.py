"""
Which records are really sampled: seen at the model's input, step by step, in two rounds of the same task.

Sound samples are Poisson, and the two rounds have nothing to do with each other: they come from the operating system and not
from a number that the server knows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedtl.audit.retraining.audited_silo import (
    Stage,
    as_floats,
    few,
    scratched,
    strangers,
    units_of,
    unlimited,
)
from fedtl.audit.verdict import Measured
from fedtl.models.net import Net
from fedtl.privacy.guarantee import Releases

Bools = NDArray[np.bool_]
UNITS = 128
STEPS = 24


@dataclass(frozen=True)
class Sampled:
    """Of two rounds: [steps, units], which units were in a step; ``torn``: how often a unit was there with some of its rows."""

    one: Bools
    other: Bools
    torn: int
    rate: float


def sampled(stage: Stage) -> Sampled:
    """Two rounds of one task, on rows that nobody has, which can be told apart."""
    data, changed = few(as_floats(strangers(stage.data), stage.trainer), stage.guarantee, UNITS)
    phase = stage.phases()[0]
    steps = tuple(STEPS if number == phase else 0 for number in range(len(stage.guarantee.training.steps)))
    changed = unlimited(replace(changed, releases=Releases(), canaries=None), steps=steps)
    trainer, units = stage.unmoved(), units_of(data, stage.guarantee)
    rows = {row.numpy().tobytes(): at for at, row in enumerate(data.train.x.flatten(1))}
    found, torn = [], 0
    for _ in range(2):
        with scratched(changed) as guarantee, _fed(trainer.net(data.width), rows) as seen:
            stage.fit(guarantee, data, trainer)
        held = np.zeros((len(seen), len(rows)), bool)
        for step, inside in enumerate(seen):
            held[step, sorted(inside)] = True
        by_unit = _by_unit(held, units)
        found.append(by_unit > 0)
        torn += int(((by_unit > 0) & (by_unit < 1)).sum())
    return Sampled(found[0], found[1], torn, stage.guarantee.training.sample_rate)


def _by_unit(held: Bools, units: Tensor) -> NDArray[np.float64]:
    """[steps, units]: the share of each unit's rows."""
    counts = np.bincount(units.numpy())
    sums = np.zeros((len(held), len(counts)))
    np.add.at(sums.T, units.numpy(), held.T.astype(float))
    return np.asarray(sums / counts)


@contextmanager
def _fed(net: Net, rows: Mapping[bytes, int]) -> Iterator[list[set[int]]]:
    """The rows that the body was fed before each step of the optimiser, while the block lasts."""
    steps: list[set[int]] = []
    now: set[int] = set()

    def look(_: nn.Module, given: tuple[Any, ...]) -> None:
        x = given[0].detach().cpu().contiguous().flatten(1)
        now.update(at for row in x if (at := rows.get(row.numpy().tobytes())) is not None)

    def end(*_: Any) -> None:
        steps.append(set(now))
        now.clear()

    handles = [net.body.register_forward_pre_hook(look), register_optimizer_step_pre_hook(end)]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def like_poisson(its: Sampled) -> Measured:
    """How many units are sampled, how evenly over units and over steps, and whether a later step has them again."""
    held = np.concatenate([its.one, its.other])
    total, cells, rate = int(held.sum()), held.size, its.rate
    share = total / cells
    if its.torn:
        return 0.0, float(its.torn), f"{its.torn} units were sampled with some of their rows only"
    if rate >= 1:
        return float(total == cells), share, f"{cells - total} of {cells} records were not sampled at rate 1"
    lag, later = _overlap(its.one, its.one, rate)
    found = [
        (
            float(binomtest(total, cells, rate).pvalue),
            f"each step holds {share:.4f} of the records, not {rate:.4f}",
        ),
        (
            _counts(held.sum(0), len(held), rate),
            "records are not sampled equally often, or too equally, for Poisson",
        ),
        (_counts(held.sum(1), held.shape[1], rate), "steps are not as unequal in size as Poisson samples"),
        (lag, f"the records of a step come again {later} steps later"),
    ]
    p, reason = min(found)
    return min(1.0, len(found) * p), share, reason


def _counts(counts: NDArray[np.int64], tries: int, rate: float) -> float:
    """
    A bound on the chance of binomial counts as far from the mean, or as near to each other, as the farthest: n P(X >= max),
    n P(X <= min), and sum_k P(k <= X <= k + range)^n.
    """
    law, number = binom(tries, rate), len(counts)
    low, high = int(counts.min()), int(counts.max())
    far = number * min(float(law.sf(high - 1)), float(law.cdf(low)))
    first = np.arange(tries - (high - low) + 1)
    near = float(((law.cdf(first + high - low) - law.cdf(first - 1)) ** number).sum())
    return min(1.0, 3 * min(far, near))


def between_fits(its: Sampled) -> Measured:
    """Two rounds of one task and one seed sample other records."""
    if its.rate >= 1:
        return None, None, "every record is in every step"
    p, _ = _overlap(its.one, its.other, its.rate)
    share = float((its.one & its.other).sum() / max(1, its.one.sum()))
    reason = f"the same task samples the same records again ({share:.0%} of them): samples come from a seed"
    return p, share, reason


def _overlap(one: Bools, other: Bools, rate: float) -> tuple[float, int]:
    """
    Whether steps of ``one`` hold the records of steps of ``other`` that stand so many later: cells of independent Poisson
    samples agree like a binomial of rate squared. p over all distances, and the least likely distance.
    """
    same = one is other
    worst, where, tries = 1.0, 0, 0
    for lag in range(1 if same else 0, len(one)):
        first = np.arange(min(len(one), len(other) - lag))
        if same:  # each cell in one pair at most, or the pairs would not be independent
            first = first[(first // lag) % 2 == 0]
        both = one[first] & other[first + lag]
        tries += 1
        p = float(binom.sf(int(both.sum()) - 1, both.size, rate**2))
        if p < worst:
            worst, where = p, lag
    return min(1.0, worst * max(1, tries)), where
