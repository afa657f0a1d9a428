"""
Membership inference: from what a vantage knows, was a row trained on? Offline LiRA (Carlini et al., 2022) and RMIA
(Zarifzadeh et al., 2024), with reference models that saw other rows.

Knows confidences and coins; how they come about is ``shadows``'s. A realistic risk, and no bound: an attack that fails
proves nothing, an attack that succeeds proves what it took.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm
from sklearn.metrics import roc_auc_score, roc_curve

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
RATES = (0.01, 0.001)
OFFLINE = 0.3  # RMIA's a: how much lower the confidence is in models without a row
LEVEL = 0.05  # of intervals
POINTS = 60  # of a drawn ROC curve


@dataclass(frozen=True)
class Evidence:
    """
    Of one silo's rows: ``member`` [n], the target's log-odds of the right label [n], and each reference's [k, n] with
    the rows ``held`` [k, n] that it trained on. ``population`` and ``others`` [k, p]: log-odds of rows of nobody's.
    """

    member: Bools
    target: Floats
    references: Floats
    held: Bools
    population: Floats
    others: Floats

    def scored(self) -> Bools:
        """Rows that some reference did not train on; with one reference that is half of them."""
        return np.asarray(~self.held.all(0))


def lira(of: Evidence) -> Floats:
    """log Phi((target - mean_out) / sd), one sd for all rows, for there are few references; NaN where there is none."""
    out = np.where(of.held, np.nan, of.references)
    means = _mean_out(out)
    enough = (~of.held).sum(0) > 1
    spread = float(np.sqrt(np.nanmean(np.nanvar(out[:, enough], axis=0, ddof=1)))) if enough.any() else 0.0
    return np.asarray(norm.logcdf((of.target - means) / (spread or float(np.nanstd(out)) or 1.0)))


def rmia(of: Evidence) -> Floats:
    """
    The share of the population that the row's ratio reaches, ratio p(x) / p_ref(x) with
    p_ref = ((1 + a) mean_out + 1 - a) / 2; NaN where there is no reference.
    """

    def ratio(target: Floats, out: Floats) -> Floats:
        mean = _mean_out(out)
        return np.asarray(_share(target) / (((1 + OFFLINE) * mean + 1 - OFFLINE) / 2))

    rows = ratio(of.target, np.where(of.held, np.nan, _share(of.references)))
    people = np.sort(ratio(of.population, _share(of.others)))
    reached = np.searchsorted(people, rows, side="right") / len(people)
    # The population is small and its shares are few; rows of one share are told apart by their ratio.
    return np.where(np.isnan(rows), np.nan, reached + 1e-6 * np.tanh(rows))


def _mean_out(out: Floats) -> Floats:
    count = (~np.isnan(out)).sum(0)
    return np.where(count, np.nansum(out, axis=0) / np.maximum(count, 1), np.nan)


def _share(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(odds, -30, 30)))


ATTACKS = {"rmia": rmia, "lira": lira}


def measure(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """By attack: its figures over all silos' rows, and each silo's own."""
    found: dict[str, Any] = {}
    for attack, score in ATTACKS.items():
        scores = {silo: score(its) for silo, its in evidence.items()}
        kept = {silo: ~np.isnan(its) for silo, its in scores.items()}
        silos = {
            silo: figures(evidence[silo].member[kept[silo]], scores[silo][kept[silo]]) for silo in evidence
        }
        member = np.concatenate([evidence[silo].member[kept[silo]] for silo in evidence])
        everyone = np.concatenate([scores[silo][kept[silo]] for silo in evidence])
        found[attack] = {**figures(member, everyone), "roc": _roc(member, everyone), "silos": silos}
    return found


def figures(member: Bools, scores: Floats) -> dict[str, Any]:
    """
    AUC with Hanley and McNeil's interval (1982), TPR at each rate with Clopper and Pearson's (1934), and how many rows
    there were. None where there are no members or no others.
    """
    inside, outside = int(member.sum()), int((~member).sum())
    its: dict[str, Any] = {"members": inside, "others": outside, "notes": []}
    if not inside or not outside:
        return {**its, "auc": None, "ci95": None, **{f"tpr_at_fpr_{rate:g}": None for rate in RATES}}
    auc = float(roc_auc_score(member, scores))
    half = float(norm.ppf(1 - LEVEL / 2)) * _auc_error(auc, inside, outside)
    its |= {"auc": auc, "ci95": [max(0.0, auc - half), min(1.0, auc + half)]}
    for rate in RATES:
        allowed = math.floor(rate * outside + 1e-9)
        threshold = np.sort(scores[~member])[outside - 1 - allowed]
        hits = int((scores[member] > threshold).sum())
        its[f"tpr_at_fpr_{rate:g}"] = hits / inside
        its[f"tpr_at_fpr_{rate:g}_ci95"] = exact_interval(hits, inside)
        if not allowed:
            its["notes"].append(
                f"{outside} rows that were not trained on cannot resolve a false alarm rate of {rate:.1%} (1 in {outside} is "
                f"{1 / outside:.2%}): the true positive rate is that without any false alarm among them"
            )
    return its


def exact_interval(hits: int, tries: int) -> list[float]:
    """Clopper and Pearson, 1934."""
    low = 0.0 if hits == 0 else float(beta.ppf(LEVEL / 2, hits, tries - hits + 1))
    high = 1.0 if hits == tries else float(beta.ppf(1 - LEVEL / 2, hits + 1, tries - hits))
    return [low, high]


def _auc_error(auc: float, inside: int, outside: int) -> float:
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    square = auc * (1 - auc) + (inside - 1) * (one - auc**2) + (outside - 1) * (two - auc**2)
    return math.sqrt(max(square, 0.0) / (inside * outside))


def _roc(member: Bools, scores: Floats) -> list[list[float]]:
    """Some points of the curve, false alarms first, for a drawing."""
    if member.all() or not member.any():
        return []
    false, true, _ = roc_curve(member, scores)
    at = np.unique(np.linspace(0, len(false) - 1, min(POINTS, len(false))).round().astype(int))
    return [[float(false[i]), float(true[i])] for i in at]


def sums(values: Sequence[Floats]) -> Floats:
    """The mean over several looks at the same rows: what a vantage that sees several rounds knows."""
    return np.asarray(np.mean(values, axis=0))
