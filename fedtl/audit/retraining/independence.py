"""
Tests of the independence of noise, on sums of products of numbers that are independent and standard normal in a sound run.

Every p-value is an upper bound for any number of terms: nothing is estimated, and no limit theorem is used.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]
MAX_DEVIATION = 8.0  # standard normal numbers of an audit are smaller


def product_p(total: Floats, pairs: Floats) -> Floats:
    """
    An upper bound on P(|S| >= |total|) for S = sum of x_i x_j over ``pairs`` pairs {i, j}, in which no number is in more
    than two pairs.

    S = x'Ax with trace 0, eigenvalues in [-1, 1] and squares that sum to pairs / 2, so its log moment generating function
    is at most pairs s^2 / (2 (1 - 2s)): S is sub-gamma (Boucheron, Lugosi and Massart, 2013, section 2.4).
    """
    u = 2 * np.abs(total) / pairs
    exponent = pairs / 4 * (1 + u - np.sqrt(1 + 2 * u))
    return np.asarray(np.minimum(1.0, 2 * np.exp(-exponent)))


def magnitudes(noise: Floats) -> Floats:
    """Turn standard normal numbers into standard normal numbers that depend on their absolute values only."""
    uniform = 2 * ndtr(np.minimum(np.abs(noise), MAX_DEVIATION)) - 1
    return np.asarray(np.clip(ndtri(uniform), -MAX_DEVIATION, MAX_DEVIATION))


def within_step(noise: Floats) -> tuple[float, int]:
    """
    Whether noise [steps, n] is repeated later in the same step, at any lag. Returns the p-value over all lags, and the lag
    with the smallest one.
    """
    steps, count = noise.shape
    if count < 2:
        return 1.0, 0
    length = next_fast_len(2 * count)
    lags = np.arange(1, count)
    worst, worst_lag = 1.0, 0
    for values in (noise, magnitudes(noise)):
        power = sum(np.abs(rfft(row, length)) ** 2 for row in values)
        p = product_p(irfft(power, length)[1:count], steps * (count - lags).astype(float))
        if (smallest := float(p.min())) < worst:
            worst, worst_lag = smallest, int(lags[p.argmin()])
    return min(1.0, 2 * len(lags) * worst), worst_lag


def between_tensors(parts: Mapping[str, Floats]) -> tuple[float, str]:
    """
    Whether two of the tensors [steps, n_i] start with the same noise. Returns the p-value over all pairs, and the pair with
    the smallest one.
    """
    names, worst, worst_pair, tests = list(parts), 1.0, "", 0
    for values in (parts, {name: magnitudes(part) for name, part in parts.items()}):
        for one, other in ((a, b) for at, a in enumerate(names) for b in names[:at]):
            count = min(values[one].shape[1], values[other].shape[1])
            total = float((values[one][:, :count] * values[other][:, :count]).sum())
            p = float(product_p(np.array(total), np.array(float(len(values[one]) * count))))
            tests += 1
            if p < worst:
                worst, worst_pair = p, f"{other} and {one}"
    return min(1.0, worst * tests), worst_pair


def between_steps(parts: Mapping[str, Floats], first: int, last: int) -> tuple[float, str]:
    """
    Whether noise [steps, n_i] is repeated ``first`` to ``last`` steps later, in a tensor or in all tensors of two single
    steps. Returns the p-value over all of these, and the place with the smallest one.
    """
    worst, place, tests = 1.0, "", 0
    whole = np.concatenate(list(parts.values()), 1)
    for name, part in (*parts.items(), ("all tensors", whole)):
        gram = part @ part.T
        lags = np.arange(first, min(last, len(part) - 1) + 1)
        sums = np.array([np.trace(gram, offset=int(lag)) for lag in lags])
        p = product_p(sums, part.shape[1] * (len(part) - lags).astype(float))
        tests += len(lags)
        if len(lags) and float(p.min()) < worst:
            worst, place = float(p.min()), f"{name}, {int(lags[p.argmin()])} steps later"
    rows, columns = np.triu_indices(len(whole), k=first)
    chosen = columns - rows <= last
    rows, columns = rows[chosen], columns[chosen]
    p = product_p((whole @ whole.T)[rows, columns], np.full(len(rows), float(whole.shape[1])))
    if len(p) and float(p.min()) < worst:
        worst, place = float(p.min()), f"steps {rows[p.argmin()] + 1} and {columns[p.argmin()] + 1}"
    return min(1.0, worst * (tests + len(p))), place
