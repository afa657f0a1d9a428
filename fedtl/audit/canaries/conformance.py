"""
Whether the noise, the clip and the sampling of a private run were those that it claims, read off its canaries.

A coordinate whose canary is out holds noise and nothing else; one whose canary was in a step holds one clip more. Every
check has a p-value under a sound run; what becomes of many of them is ``verdict``'s to say. What the canaries cannot
see (what goes around the mechanism) is ``rehearsal``'s.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, chi2, gamma, kstest, norm, t

from fedtl.audit.canaries.log import CanaryPhase, ReleasedStatistics, sampled, steps
from fedtl.audit.verdict import Check, Measured
from fedtl.methods.optimizers import OPTIMIZERS, rate
from fedtl.results.privacy import SiloPrivacy
from fedtl.training.loop import TrainingConfig

Floats = NDArray[np.float64]
MOST = 5000  # values that normality is tested on
ROUNDING = 1e-3  # clips: float32's share in a sum, at most


@dataclass(frozen=True)
class Claim:
    """What a silo says of its training: result.json's ``privacy.silos.<name>``."""

    noise_multiplier: float
    sample_rate: float
    clip: float
    records: int
    statistics_noise: float | None = None

    @classmethod
    def of(cls, its: SiloPrivacy) -> "Claim":
        return cls(its.noise_multiplier, its.sample_rate, its.clip, its.units, its.statistics_noise)


def conformance(
    silo: str,
    run: Sequence[CanaryPhase],
    statistics: ReleasedStatistics | None,
    claim: Claim,
    training: TrainingConfig,
    rounds: int,
) -> list[Check]:
    """All checks on one silo's own record, in a fixed order and number."""
    noise = steps(run)[:, ~run[0].member]
    makers: list[tuple[str, Callable[[], Measured]]] = [
        ("noise", lambda: _noise(noise, claim.noise_multiplier)),
        ("normality", lambda: _normality(noise)),
        ("whiteness", lambda: _whiteness(noise)),
        ("repeats", lambda: _repeats(noise)),
        ("sensitivity", lambda: _sensitivity(run, noise)),
        ("absence", lambda: _absence(run, noise)),
        ("sampling", lambda: _sampling(run, claim.sample_rate)),
        ("optimiser", lambda: _optimiser(run, claim, training, rounds)),
        ("noise on statistics", lambda: _statistics_noise(statistics, claim)),
        ("sensitivity of statistics", lambda: _statistics_sensitivity(statistics)),
    ]
    return [Check(name, silo, *make()) for name, make in makers]


def between(runs: Mapping[str, Sequence[CanaryPhase]]) -> list[Check]:
    """Whether two silos have noise in common: one check a pair, on the canaries that neither has."""
    found = []
    for one, other in combinations(sorted(runs), 2):
        both = ~runs[one][0].member & ~runs[other][0].member
        p, largest = largest_cosine(steps(runs[one])[:, both], steps(runs[other])[:, both])
        reason = (
            f"a step of each has the same noise (correlation {largest:.3f}; sound is 0): seeds are shared"
        )
        found.append(Check("noise between silos", f"{one} and {other}", p, largest, reason))
    return found


def _noise(noise: Floats, sigma: float) -> tuple[float, float, str]:
    squares, count = float((noise**2).sum()) / sigma**2, noise.size
    p = 2 * min(chi2.cdf(squares, count), chi2.sf(squares, count))
    ratio = math.sqrt(squares / count)
    if ratio == 0:
        return 0.0, 0.0, f"there is none; {sigma:.3g} clips were claimed"
    return p, ratio, f"its standard deviation is {ratio:.3f} times the claimed {sigma:.3g} clips"


def _normality(noise: Floats) -> Measured:
    values = noise.ravel()[:MOST]
    if not (spread := values.std()):
        return None, None, "no noise to look at"
    its = kstest(values / spread, "norm")
    return (
        float(its.pvalue),
        float(its.statistic),
        f"the noise is not normal (KS distance {its.statistic:.3f})",
    )


def _whiteness(noise: Floats) -> Measured:
    if len(noise) < 2 or not noise.std():
        return None, None, "fewer than two steps"
    pairs = noise[1:] * noise[:-1]
    lag = float(pairs.mean() / noise.var())
    p = float(2 * norm.sf(abs(lag) * math.sqrt(pairs.size)))
    return p, lag, f"noise of one step goes on in the next (correlation {lag:.3f}; sound is 0)"


def _repeats(noise: Floats) -> Measured:
    if len(noise) < 2:
        return None, None, "fewer than two steps"
    p, largest = largest_cosine(noise, None)
    return (
        p,
        largest,
        f"two steps have the same noise (correlation {largest:.3f}; sound is 0): a seed was used twice",
    )


def largest_cosine(a: Floats, b: Floats | None) -> tuple[float, float]:
    """
    The largest |cosine| between a row of ``a`` and one of ``b`` (or another of ``a``), and its p over all pairs. For
    independent normal rows r sqrt((n - 1) / (1 - r^2)) has Student's t with n - 1 degrees of freedom.
    """

    def unit(rows: Floats) -> Floats:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)

    cosines = np.abs(unit(a) @ unit(a if b is None else b).T)
    pairs = cosines.size
    if b is None:
        np.fill_diagonal(cosines, 0.0)
        pairs = len(a) * (len(a) - 1) // 2
    largest, free = float(cosines.max()), a.shape[1] - 1
    if largest >= 1 - 1e-6:
        return 0.0, largest
    p = 2 * t.sf(largest * math.sqrt(free / (1 - largest**2)), free)
    return min(1.0, float(p) * pairs), largest


def _sensitivity(run: Sequence[CanaryPhase], noise: Floats) -> Measured:
    """The mean of coordinates whose canary was in the step: one clip, with the noise that there is."""
    held = steps(run)[sampled(run)]
    if not len(held):
        return None, None, "no canary was ever sampled"
    mean, error = float(held.mean()), max(float(noise.std()), ROUNDING) / math.sqrt(len(held))
    p = float(2 * norm.sf(max(0.0, abs(mean - 1) - ROUNDING) / error))
    way = (
        "more than the clip allows" if mean > 1 else "less than one clip: records are not clipped one by one"
    )
    return p, mean, f"one record moves a sum by {mean:.3f} clips, {way}"


def _absence(run: Sequence[CanaryPhase], noise: Floats) -> Measured:
    """Canaries that are in, in steps that did not sample them."""
    out = steps(run)[~sampled(run) & run[0].member]
    if not len(out):
        return None, None, "every canary was in every step"
    mean, error = float(out.mean()), max(float(noise.std()), ROUNDING) / math.sqrt(len(out))
    p = float(2 * norm.sf(max(0.0, abs(mean) - ROUNDING) / error))
    return p, mean, f"records move steps that did not sample them, by {mean:.3f} clips each"


def _sampling(run: Sequence[CanaryPhase], rate: float) -> tuple[float, float, str]:
    """Poisson: how many in all, how evenly over canaries, and how evenly over steps; the worst of three counts."""
    held = sampled(run)[:, run[0].member]
    total, cells = int(held.sum()), held.size
    if rate >= 1:
        return (
            float(total == cells),
            total / cells,
            f"{cells - total} of {cells} records were not sampled at rate 1",
        )
    share = total / cells
    found = [
        (
            float(binomtest(total, cells, rate).pvalue),
            share,
            f"each step holds {share:.4f} of the records, not {rate:.4f}",
        ),
        (*_spread(held.sum(0), len(held), rate), "from record to record"),
        (*_spread(held.sum(1), held.shape[1], rate), "from step to step"),
    ]
    p, value, where = min(found, key=lambda its: its[0])
    reason = (
        where
        if value == share
        else f"counts vary {value:.2f} times as much as Poisson's {where}: batches are not Poisson"
    )
    return min(1.0, 3 * p), value, reason


def _spread(counts: NDArray[np.int64], tries: int, rate: float) -> tuple[float, float]:
    """
    p and ratio of the counts' variance about the binomial's mean. A squared standard binomial has the mean 1 and the
    variance 2 + (1 - 6 r (1 - r)) / (n r (1 - r)); their sum is near a gamma distribution of those.
    """
    one = tries * rate * (1 - rate)
    total = float(((counts - tries * rate) ** 2).sum()) / one
    variance = len(counts) * max(2 + (1 - 6 * rate * (1 - rate)) / one, 0.1)
    scale = variance / len(counts)
    law = gamma(len(counts) / scale, scale=scale)
    return min(1.0, 2 * min(float(law.cdf(total)), float(law.sf(total)))), total / len(counts)


def _optimiser(
    run: Sequence[CanaryPhase], claim: Claim, training: TrainingConfig, rounds: int
) -> tuple[float, float, str]:
    """Feed the noisy sums to an optimiser of ours: it must end where the run's did."""
    worst = max(
        float(
            np.abs(_replayed(one, claim, training, rounds) - one.after).max()
            / max(np.abs(one.after).max(), 1e-12)
        )
        for one in run
    )
    return (
        float(worst < ROUNDING),
        worst,
        f"the optimiser was given something else than the noisy sums ({worst:.2g} off)",
    )


def _statistics_noise(its: ReleasedStatistics | None, claim: Claim) -> Measured:
    """
    One Gaussian mechanism of the claimed multiplier: the squares of clip over noise of all sub-releases add up to no
    more than 1 / sigma^2, and each had the noise that was meant for it.
    """
    if (sigma := claim.statistics_noise) is None:
        return None, None, "none are released"
    if its is None:
        return 0.0, None, "they were released, and no canaries went with them"
    meant = float((its.deviations**-2.0).sum() ** -0.5) / sigma
    if meant < 1 - ROUNDING**2:
        return (
            0.0,
            meant,
            f"all releases together were meant to have {meant:.3f} times the claimed {sigma:.3g} clips",
        )
    p, ratio, reason = _noise(its.sums[:, ~its.member] * (sigma / its.deviations[:, None]), sigma)
    return p, ratio, reason


def _statistics_sensitivity(its: ReleasedStatistics | None) -> Measured:
    """The mean of coordinates whose canary is in, which is in every sub-release: one clip."""
    if its is None or not its.member.any():
        return None, None, "none are released"
    weights = its.deviations**-2.0
    mean = float(weights @ its.sums[:, its.member].mean(1) / weights.sum())
    error = 1 / math.sqrt(its.member.sum() * weights.sum())
    p = float(2 * norm.sf(max(0.0, abs(mean - 1) - ROUNDING) / error))
    return p, mean, f"one record moves a sum of statistics by {mean:.3f} clips"


def _replayed(one: CanaryPhase, claim: Claim, training: TrainingConfig, rounds: int) -> Floats:
    weight = torch.zeros(1, len(one.member), requires_grad=True)
    extra = {"momentum": training.momentum} if training.optimizer == "sgd" else {}
    lr = training.lr * rate(training.schedule, one.round, rounds)
    optimizer = OPTIMIZERS[training.optimizer]([weight], lr=lr, weight_decay=training.weight_decay, **extra)
    for row in _rows(one, claim):
        weight.grad = row[None]
        optimizer.step()
    return weight.detach().numpy()[0].astype(float)


def _rows(one: CanaryPhase, claim: Claim) -> Iterator[torch.Tensor]:
    expected = claim.sample_rate * claim.records
    return iter(torch.from_numpy(one.sums * claim.clip / expected).float())


def likelihood(run: Sequence[CanaryPhase], claim: Claim) -> Floats:
    """
    Scores for whoever sees every step, as the accountant assumes: of each canary the log of how much likelier its
    sums are with it than without, sum_t log(1 - q + q exp((s_t - 1/2) / sigma^2)).
    """
    q = claim.sample_rate
    with np.errstate(divide="ignore"):
        without = np.log1p(-q) if q < 1 else -np.inf
    scores = np.logaddexp(without, math.log(q) + (steps(run) - 0.5) / claim.noise_multiplier**2)
    return scores.sum(0)


def final(run: Sequence[CanaryPhase]) -> Floats:
    """Scores for whoever sees only what training came to: minus the sum of the parameter's moves."""
    return -np.sum([one.after for one in run], axis=0)
