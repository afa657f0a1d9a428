"""
Which records are sampled, as seen at the model's input, step by step, in two rounds of the same task.

Sound samples are Poisson, and the two rounds are independent: samples come from the operating system, not from a number
that the server knows.
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

from fedtl.audit.retraining.altered_data import as_floats, first_units, synthetic_rows, units_of
from fedtl.audit.retraining.audited_silo import AuditedSilo, noise_only, scratch_guarantee
from fedtl.audit.verdict import Measurement, exact, not_exercised
from fedtl.models.net import Net

Bools = NDArray[np.bool_]
UNITS = 128
STEPS = 24


@dataclass(frozen=True)
class Samples:
    """
    The samples of two rounds: which units were in a step [steps, units]. ``partial``: how often a unit was in a step with
    some of its rows only.
    """

    first: Bools
    second: Bools
    partial: int
    rate: float


def record_samples(audited: AuditedSilo) -> Samples:
    """Train two rounds of one task, on synthetic rows, which are all different."""
    synthetic = as_floats(synthetic_rows(audited.data), audited.trainer)
    phase = audited.private_phases()[0]
    steps = tuple(STEPS if number == phase else 0 for number in range(len(audited.guarantee.training.steps)))
    changed = replace(noise_only(audited.guarantee, steps=steps), canaries=None)
    data, few = first_units(synthetic, changed, UNITS)
    trainer, units = audited.frozen_trainer(), units_of(data, audited.guarantee)
    rows = {row.numpy().tobytes(): number for number, row in enumerate(data.train.x.flatten(1))}
    rounds, partial = [], 0
    for _ in range(2):
        net = trainer.net(data.width)
        with scratch_guarantee(few) as guarantee, _record_rows(net, rows) as sampled_rows:
            audited.fit(guarantee, data, trainer)
        sampled = np.zeros((len(sampled_rows), len(rows)), bool)
        for step, inside in enumerate(sampled_rows):
            sampled[step, sorted(inside)] = True
        shares = _by_unit(sampled, units)
        rounds.append(shares > 0)
        partial += int(((shares > 0) & (shares < 1)).sum())
    return Samples(rounds[0], rounds[1], partial, audited.guarantee.training.sample_rate)


def _by_unit(sampled: Bools, units: Tensor) -> NDArray[np.float64]:
    """The share of each unit's rows that was sampled [steps, units]."""
    counts = np.bincount(units.numpy())
    sums = np.zeros((len(sampled), len(counts)))
    np.add.at(sums.T, units.numpy(), sampled.T.astype(float))
    return np.asarray(sums / counts)


@contextmanager
def _record_rows(net: Net, rows: Mapping[bytes, int]) -> Iterator[list[set[int]]]:
    """Record the rows that the body receives before each step of the optimiser within the block."""
    steps: list[set[int]] = []
    current: set[int] = set()

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().cpu().contiguous().flatten(1)
        numbers = (rows.get(row.numpy().tobytes()) for row in x)
        current.update(number for number in numbers if number is not None)

    def end_step(*_: Any) -> None:
        steps.append(set(current))
        current.clear()

    # Before a scale of pixels, which is a hook too.
    handles = [
        net.body.register_forward_pre_hook(record, prepend=True),
        register_optimizer_step_pre_hook(end_step),
    ]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def poisson_samples(samples: Samples) -> Measurement:
    """The number of sampled units, its variation over units and over steps, and repeated samples in later steps."""
    sampled = np.concatenate([samples.first, samples.second])
    total, cells, rate = int(sampled.sum()), sampled.size, samples.rate
    share = total / cells
    if samples.partial:
        reason = f"{samples.partial} units were sampled with some of their rows only"
        return exact(False, float(samples.partial), reason)
    if rate >= 1:
        return exact(total == cells, share, f"{cells - total} of {cells} records were not sampled at rate 1")
    repeated, lag = _repeats(samples.first, samples.first, rate)
    tests = [
        (
            float(binomtest(total, cells, rate).pvalue),
            f"each step samples {share:.4f} of the records, not {rate:.4f}",
        ),
        (
            _count_p(sampled.sum(0), len(sampled), rate),
            "the number of samples varies too much or too little from record to record for Poisson sampling",
        ),
        (
            _count_p(sampled.sum(1), sampled.shape[1], rate),
            "the size of steps varies too much or too little for Poisson sampling",
        ),
        (repeated, f"the records of a step are sampled again {lag} steps later"),
    ]
    p, reason = min(tests)
    return Measurement(min(1.0, len(tests) * p), share, reason)


def _count_p(counts: NDArray[np.int64], tries: int, rate: float) -> float:
    """
    An upper bound on the probability that binomial counts are as far from the mean, or as close to each other, as these:
    n P(X >= max), n P(X <= min), and sum_k P(k <= X <= k + range)^n.
    """
    law, number = binom(tries, rate), len(counts)
    low, high = int(counts.min()), int(counts.max())
    extremes = number * min(float(law.sf(high - 1)), float(law.cdf(low)))
    first = np.arange(tries - (high - low) + 1)
    range_p = float(((law.cdf(first + high - low) - law.cdf(first - 1)) ** number).sum())
    return min(1.0, 3 * min(extremes, range_p))


def samples_differ(samples: Samples) -> Measurement:
    """Two rounds of one task and one seed sample different records."""
    if samples.rate >= 1:
        return not_exercised("every record is in every step")
    p, _ = _repeats(samples.first, samples.second, samples.rate)
    share = float((samples.first & samples.second).sum() / max(1, samples.first.sum()))
    reason = f"the same task samples the same records again ({share:.0%} of them): samples come from a seed"
    return Measurement(p, share, reason)


def _repeats(one: Bools, other: Bools, rate: float) -> tuple[float, int]:
    """
    Whether steps of ``one`` have the records of later steps of ``other``: both of two independent Poisson samples have a
    record with probability rate^2. Returns the p-value over all lags, and the lag with the smallest one.
    """
    same = one is other
    worst, worst_lag, tests = 1.0, 0, 0
    for lag in range(1 if same else 0, len(one)):
        first = np.arange(min(len(one), len(other) - lag))
        if same:  # each step is in one pair at most, so that the pairs are independent
            first = first[(first // lag) % 2 == 0]
        both = one[first] & other[first + lag]
        tests += 1
        p = float(binom.sf(int(both.sum()) - 1, both.size, rate**2))
        if p < worst:
            worst, worst_lag = p, lag
    return min(1.0, worst * max(1, tests)), worst_lag
