"""
Is noise independent? Tests on sums of products of numbers that are independent and standard normal in a sound run.

Every p-value is a bound that holds at any number of terms: nothing is estimated and no limit theorem is used.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]
FAR = 8.0  # a size that no standard normal number of an audit has


def product_p(total: Floats, pairs: Floats) -> Floats:
    """
    A bound on P(|S| >= |total|) for S = sum of x_i x_j over so many ``pairs`` {i, j}, in which no number stands in more
    than two pairs.

    S = x'Ax with trace 0, eigenvalues in [-1, 1] and squares that sum to pairs / 2, so that its log moment generating
    function is at most pairs s^2 / (2 (1 - 2s)): a sub-gamma variable (Boucheron, Lugosi and Massart, 2013, section 2.4).
    """
    u = 2 * np.abs(total) / pairs
    exponent = pairs / 4 * (1 + u - np.sqrt(1 + 2 * u))
    return np.asarray(np.minimum(1.0, 2 * np.exp(-exponent)))


def sizes(noise: Floats) -> Floats:
    """Of standard normal numbers, standard normal numbers that depend on their sizes alone, not on their signs."""
    return np.asarray(np.clip(ndtri(2 * ndtr(np.minimum(np.abs(noise), FAR)) - 1), -FAR, FAR))


def along(noise: Floats) -> tuple[float, int]:
    """
    [steps, n]: whether noise is repeated further on in the same step, at any distance; p over all distances, and the
    distance that is least likely.
    """
    steps, count = noise.shape
    if count < 2:
        return 1.0, 0
    length = next_fast_len(2 * count)
    lags = np.arange(1, count)
    worst, where = 1.0, 0
    for values in (noise, sizes(noise)):
        power = sum(np.abs(rfft(row, length)) ** 2 for row in values)
        p = product_p(irfft(power, length)[1:count], steps * (count - lags).astype(float))
        if (least := float(p.min())) < worst:
            worst, where = least, int(lags[p.argmin()])
    return min(1.0, 2 * len(lags) * worst), where


def between(parts: Mapping[str, Floats]) -> tuple[float, str]:
    """[steps, n_i] each: whether two parts begin with the same noise; p over all pairs, and the least likely pair."""
    names, worst, where, tries = list(parts), 1.0, "", 0
    for values in (parts, {name: sizes(part) for name, part in parts.items()}):
        for one, other in ((a, b) for at, a in enumerate(names) for b in names[:at]):
            count = min(values[one].shape[1], values[other].shape[1])
            total = float((values[one][:, :count] * values[other][:, :count]).sum())
            p = float(product_p(np.array(total), np.array(float(len(values[one]) * count))))
            tries += 1
            if p < worst:
                worst, where = p, f"{other} and {one}"
    return min(1.0, worst * tries), where


def over_steps(parts: Mapping[str, Floats], first: int, last: int) -> tuple[float, str]:
    """
    [steps, n_i] each: whether noise comes again between ``first`` and ``last`` steps later, in a part or in two single
    steps as a whole; p over all of it, and where that is least likely.
    """
    worst, where, tries = 1.0, "", 0
    whole = np.concatenate(list(parts.values()), 1)
    for name, part in (*parts.items(), ("all tensors", whole)):
        gram = part @ part.T
        lags = np.arange(first, min(last, len(part) - 1) + 1)
        sums = np.array([np.trace(gram, offset=int(lag)) for lag in lags])
        p = product_p(sums, part.shape[1] * (len(part) - lags).astype(float))
        tries += len(lags)
        if len(lags) and float(p.min()) < worst:
            worst, where = float(p.min()), f"{name}, {int(lags[p.argmin()])} steps later"
    rows, columns = np.triu_indices(len(whole), k=first)
    chosen = columns - rows <= last
    rows, columns = rows[chosen], columns[chosen]
    p = product_p((whole @ whole.T)[rows, columns], np.full(len(rows), float(whole.shape[1])))
    if len(p) and float(p.min()) < worst:
        worst, where = float(p.min()), f"steps {rows[p.argmin()] + 1} and {columns[p.argmin()] + 1}"
    return min(1.0, worst * (tries + len(p))), where
