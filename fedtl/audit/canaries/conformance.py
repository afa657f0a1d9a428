"""
Whether noise, clipping and sampling of a private run are as claimed, read from its canaries.

The coordinate of a canary that is not in the run holds noise only; if its canary was sampled in a step, a coordinate holds
one clip more. The canaries cannot show what bypasses the mechanism; ``audit.retraining`` checks that.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, chi2, gamma, kstest, norm, t

from fedtl.audit.canaries.log import CanaryPhase, ReleasedStatistics, sampled, steps
from fedtl.audit.verdict import Check, Measurement, exact, not_exercised
from fedtl.methods.optimizers import OPTIMIZERS, rate
from fedtl.results.privacy import SiloPrivacy
from fedtl.training.config import TrainingConfig

Floats = NDArray[np.float64]
NORMALITY_VALUES = 5000  # the number of values that are tested for normality
ROUNDING = 1e-3  # the largest error of float32 in a sum, in clips
MIN_VALUES = 2  # fewer values have no standard deviation and no correlation
MIN_DISTANCE = 1e-15  # of a squared correlation from 1: below it, float64 cannot tell the two apart
NO_NOISE = "too few canaries are outside the run, so no sum holds noise alone"


def noise_conformance(
    silo: str,
    run: Sequence[CanaryPhase],
    statistics: ReleasedStatistics | None,
    claim: SiloPrivacy,
    training: TrainingConfig,
) -> list[Check]:
    """All checks of one silo's canaries, always the same ones in the same order."""
    noise = steps(run)[:, ~run[0].member]
    checks: list[tuple[str, Callable[[], Measurement]]] = [
        ("noise", lambda: _noise(noise, claim.noise_multiplier)),
        ("normality", lambda: _normality(noise)),
        ("whiteness", lambda: _whiteness(noise)),
        ("repeats", lambda: _repeats(noise)),
        ("sensitivity", lambda: _sensitivity(run, noise)),
        ("absence", lambda: _absence(run, noise)),
        ("sampling", lambda: _sampling(run, claim.sample_rate)),
        ("optimiser", lambda: _optimiser(run, claim, training)),
        ("noise on statistics", lambda: _statistics_noise(statistics, claim)),
        ("sensitivity of statistics", lambda: _statistics_sensitivity(statistics)),
    ]
    return [Check(name, silo, *measure()) for name, measure in checks]


def summary_conformance(silo: str, summaries: ReleasedStatistics | None, claim: SiloPrivacy) -> list[Check]:
    """The checks of what canaries recorded of released summaries; none where the claim has no summary."""
    if claim.summary_noise is None:
        return []
    if summaries is None:
        return [Check("noise on summaries", silo, *not_exercised("summaries were released without canaries"))]
    noise = summaries.sums[:, ~summaries.member]
    return [
        Check("noise on summaries", silo, *_noise(noise, claim.summary_noise)),
        Check("sensitivity of summaries", silo, *_sensitivity_of_sums(summaries, "summary")),
    ]


def shared_noise(runs: Mapping[str, Sequence[CanaryPhase]]) -> list[Check]:
    """Whether two silos have noise in common: one check for each pair, on the canaries that neither has."""
    checks = []
    for one, other in combinations(sorted(runs), 2):
        neither = ~runs[one][0].member & ~runs[other][0].member
        measured = _common_noise(steps(runs[one])[:, neither], steps(runs[other])[:, neither])
        checks.append(Check("noise between silos", f"{one} and {other}", *measured))
    return checks


def _common_noise(one: Floats, other: Floats) -> Measurement:
    if one.shape[1] < MIN_VALUES:
        return not_exercised("fewer than two canaries are in neither run")
    p, largest = largest_cosine(one, other)
    reason = (
        f"a step of one silo has the same noise as a step of the other (correlation {largest:.3f}, expected 0): "
        "they use the same seed"
    )
    return Measurement(p, largest, reason)


def _noise(noise: Floats, sigma: float) -> Measurement:
    if not noise.size:
        return not_exercised(NO_NOISE)
    squares, count = float((noise**2).sum()) / sigma**2, noise.size
    p = 2 * min(chi2.cdf(squares, count), chi2.sf(squares, count))
    ratio = math.sqrt(squares / count)
    if ratio == 0:
        return Measurement(
            0.0, 0.0, f"there is no noise; a standard deviation of {sigma:.3g} clips was claimed"
        )
    return Measurement(
        p, ratio, f"the noise's standard deviation is {ratio:.3f} times the claimed {sigma:.3g} clips"
    )


def _normality(noise: Floats) -> Measurement:
    values = noise.ravel()[:NORMALITY_VALUES]
    if not values.any():
        return not_exercised("there is no noise")
    deviation = math.sqrt(float((values**2).mean()))  # its mean is 0, and a few values may lie close together
    test = kstest(values / deviation, "norm")
    reason = f"the noise is not normally distributed (Kolmogorov-Smirnov distance {test.statistic:.3f})"
    return Measurement(float(test.pvalue), float(test.statistic), reason)


def _whiteness(noise: Floats) -> Measurement:
    if len(noise) < 2 or not noise.any():
        return not_exercised("fewer than two steps with noise")
    pairs = noise[1:] * noise[:-1]
    lag = float(pairs.mean() / (noise**2).mean())
    p = float(2 * norm.sf(abs(lag) * math.sqrt(pairs.size)))
    return Measurement(
        p, lag, f"the noise of consecutive steps is correlated (correlation {lag:.3f}, expected 0)"
    )


def _repeats(noise: Floats) -> Measurement:
    if min(noise.shape) < MIN_VALUES:
        return not_exercised("fewer than two steps, or fewer than two canaries outside the run")
    p, largest = largest_cosine(noise, None)
    reason = f"two steps have the same noise (correlation {largest:.3f}, expected 0): a seed was used twice"
    return Measurement(p, largest, reason)


def largest_cosine(a: Floats, b: Floats | None) -> tuple[float, float]:
    """
    The largest |cosine| between a row of ``a`` and a row of ``b`` (or another row of ``a``), and its p-value over all
    pairs. For independent normal rows r sqrt((n - 1) / (1 - r^2)) has Student's t distribution with n - 1 degrees of
    freedom. Raises ZeroDivisionError for n = 1: all such rows are parallel.
    """

    def unit(rows: Floats) -> Floats:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)

    cosines = np.abs(unit(a) @ unit(a if b is None else b).T)
    pairs = cosines.size
    if b is None:
        np.fill_diagonal(cosines, 0.0)
        pairs = len(a) * (len(a) - 1) // 2
    largest, free = float(cosines.max()), a.shape[1] - 1
    p = 2 * t.sf(largest * math.sqrt(free / max(1 - largest**2, MIN_DISTANCE)), free)
    return min(1.0, float(p) * pairs), largest


def _sensitivity(run: Sequence[CanaryPhase], noise: Floats) -> Measurement:
    """The mean of coordinates whose canary was sampled in the step is one clip."""
    values = steps(run)[sampled(run)]
    if not len(values) or noise.size < MIN_VALUES:
        return not_exercised("no canary was sampled, or all are in the run")
    mean = float(values.mean())
    p = _mean_p(mean - 1, len(values), noise)
    cause = (
        "more than the clip allows" if mean > 1 else "less than one clip: records are not clipped one by one"
    )
    return Measurement(p, mean, f"one record changes a sum by {mean:.3f} clips, {cause}")


def _absence(run: Sequence[CanaryPhase], noise: Floats) -> Measurement:
    """The mean of coordinates whose canary is in the run and was not sampled in the step is zero."""
    values = steps(run)[~sampled(run) & run[0].member]
    if not len(values) or noise.size < MIN_VALUES:
        return not_exercised("every canary was in every step, or all are in the run")
    mean = float(values.mean())
    p = _mean_p(mean, len(values), noise)
    return Measurement(p, mean, f"records change steps that did not sample them, by {mean:.3f} clips each")


def _mean_p(difference: float, values: int, noise: Floats) -> float:
    """
    Return the p-value of the ``difference`` between a mean and its expectation. ``values``: how many numbers were averaged. Their
    standard deviation is estimated from ``noise``, so the ratio has Student's t distribution.
    """
    error = max(float(noise.std(ddof=1)), ROUNDING) / math.sqrt(values)
    return float(2 * t.sf(max(0.0, abs(difference) - ROUNDING) / error, noise.size - 1))


def _sampling(run: Sequence[CanaryPhase], rate: float) -> Measurement:
    """Poisson sampling: the number of samples in all, its variation over canaries, and its variation over steps."""
    samples = sampled(run)[:, run[0].member]
    if not samples.size:
        return not_exercised("no canary is in the run")
    total, cells = int(samples.sum()), samples.size
    share = total / cells
    if rate >= 1:
        return exact(total == cells, share, f"{cells - total} of {cells} records were not sampled at rate 1")
    p, value, reason = min(
        (
            (float(binomtest(total, cells, rate).pvalue), share, ""),
            (*_dispersion(samples.sum(0), len(samples), rate), "from record to record"),
            (*_dispersion(samples.sum(1), samples.shape[1], rate), "from step to step"),
        ),
        key=lambda test: test[0],
    )
    if reason:
        reason = f"counts vary {value:.2f} times as much {reason} as with Poisson sampling: batches are not Poisson"
    else:
        reason = f"each step samples {share:.4f} of the records, not {rate:.4f}"
    return Measurement(min(1.0, 3 * p), value, reason)


def _dispersion(counts: NDArray[np.int64], tries: int, rate: float) -> tuple[float, float]:
    """
    The p-value of the counts' variance, and its ratio to the binomial variance. A squared standardised binomial has mean 1
    and variance 2 + (1 - 6 r (1 - r)) / (n r (1 - r)); the sum is approximated by a gamma distribution with these moments.
    """
    binomial = tries * rate * (1 - rate)
    total = float(((counts - tries * rate) ** 2).sum()) / binomial
    variance = len(counts) * max(2 + (1 - 6 * rate * (1 - rate)) / binomial, 0.1)
    scale = variance / len(counts)
    law = gamma(len(counts) / scale, scale=scale)
    # Counts are whole numbers: of a few, all may be as near to their mean as a count can be.
    nearest = float(binom.pmf(np.floor(tries * rate + 0.5), tries, rate)) ** len(counts)
    return min(1.0, 2 * min(max(float(law.cdf(total)), nearest), float(law.sf(total)))), total / len(counts)


def _optimiser(run: Sequence[CanaryPhase], claim: SiloPrivacy, training: TrainingConfig) -> Measurement:
    """An optimiser that is given the noisy sums must end where the run's optimiser ended."""
    worst = max(
        float(
            np.abs(_optimised(phase, claim, training) - phase.after).max()
            / max(np.abs(phase.after).max(), 1e-12)
        )
        for phase in run
    )
    reason = f"the optimiser was not given the noisy sums (relative difference {worst:.2g})"
    return exact(worst < ROUNDING, worst, reason)


def _statistics_noise(statistics: ReleasedStatistics | None, claim: SiloPrivacy) -> Measurement:
    """
    The releases are one Gaussian mechanism of the claimed multiplier: over all sub-releases, the sum of (clip / noise)^2
    is at most 1 / sigma^2, and each sub-release has the noise that was intended for it.
    """
    if (sigma := claim.statistics_noise) is None:
        return not_exercised("no statistics are released")
    if statistics is None:
        return exact(False, None, "statistics were released without canaries")
    intended = float((statistics.deviations**-2.0).sum() ** -0.5) / sigma
    if intended < 1 - ROUNDING**2:
        reason = f"the intended noise of all releases together is {intended:.3f} times the claimed {sigma:.3g} clips"
        return exact(False, intended, reason)
    return _noise(statistics.sums[:, ~statistics.member] * (sigma / statistics.deviations[:, None]), sigma)


def _statistics_sensitivity(statistics: ReleasedStatistics | None) -> Measurement:
    if statistics is None:
        return not_exercised("no statistics are released")
    return _sensitivity_of_sums(statistics, "statistics")


def _sensitivity_of_sums(released: ReleasedStatistics, what: str) -> Measurement:
    """The mean of coordinates whose canary is in the run is one clip: it is in every sub-release."""
    if not released.member.any():
        return not_exercised("no canary is in the run")
    weights = released.deviations**-2.0
    mean = float(weights @ released.sums[:, released.member].mean(1) / weights.sum())
    error = 1 / math.sqrt(released.member.sum() * weights.sum())
    p = float(2 * norm.sf(max(0.0, abs(mean - 1) - ROUNDING) / error))
    return Measurement(p, mean, f"one record changes a sum of {what} by {mean:.3f} clips")


def _optimised(phase: CanaryPhase, claim: SiloPrivacy, training: TrainingConfig) -> Floats:
    weight = torch.zeros(1, len(phase.member), requires_grad=True)
    extra = {"momentum": training.momentum} if training.optimizer == "sgd" else {}
    lr = training.lr * rate(training.schedule, phase.round, claim.rounds, training.warmup)
    optimizer = OPTIMIZERS[training.optimizer]([weight], lr=lr, weight_decay=training.weight_decay, **extra)
    for gradient in _gradients(phase, claim):
        weight.grad = gradient[None]
        optimizer.step()
    return weight.detach().numpy()[0].astype(float)


def _gradients(phase: CanaryPhase, claim: SiloPrivacy) -> Iterator[torch.Tensor]:
    expected_batch = claim.sample_rate * claim.units
    return iter(torch.from_numpy(phase.sums * claim.clip / expected_batch).float())


def likelihood_scores(run: Sequence[CanaryPhase], claim: SiloPrivacy) -> Floats:
    """
    Scores for an attacker who sees every step, as the accountant assumes: for each canary the log-likelihood ratio of its
    sums with and without it, sum_t log(1 - q + q exp((s_t - 1/2) / sigma^2)).
    """
    q = claim.sample_rate
    with np.errstate(divide="ignore"):
        without = np.log1p(-q) if q < 1 else -np.inf
    scores = np.logaddexp(without, math.log(q) + (steps(run) - 0.5) / claim.noise_multiplier**2)
    return scores.sum(0)


def final_scores(run: Sequence[CanaryPhase]) -> Floats:
    """Scores for an attacker who sees only the final model: minus the sum of the parameter's changes."""
    return -np.sum([phase.after for phase in run], axis=0)
