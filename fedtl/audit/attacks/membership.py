"""
Membership inference: was a row trained on? Offline LiRA (Carlini et al., 2022) and RMIA (Zarifzadeh et al., 2024), with
reference models that were trained on other rows.

Needs only confidences and who is a member; ``reference_models`` computes the former. These attacks are not a bound: an
attack that fails proves nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, norm
from sklearn.metrics import roc_auc_score, roc_curve

from fedtl.results.audit import AttackFigures, AttackResult, Interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
OFFLINE = 0.3  # RMIA's parameter a: how much lower the confidence is in models without a row
RATES = (0.01, 0.001)  # false positive rates at which true positive rates are given
SIGNIFICANCE = 0.05  # the significance of the confidence intervals
ROC_POINTS = 60  # the number of points of a plotted curve


@dataclass(frozen=True)
class Evidence:
    """
    What an attack knows of one silo's rows: ``member`` [n], the target's log-odds of the right label [n], those of the
    references [k, n], and the rows that each reference was trained on, ``held`` [k, n]. ``population`` [p] and
    ``population_references`` [k, p]: log-odds of rows that no model was trained on.
    """

    member: Bools
    target: Floats
    references: Floats
    held: Bools
    population: Floats
    population_references: Floats

    def scored(self) -> Bools:
        """Rows that some reference was not trained on; with one reference that is half of them."""
        return np.asarray(~self.held.all(0))


def lira(evidence: Evidence) -> Floats:
    """
    log Phi((target - mean_out) / sd), with one sd for all rows, because there are few references; NaN for a row that every
    reference was trained on.
    """
    out = np.where(evidence.held, np.nan, evidence.references)
    means = _mean_out(out)
    enough = (~evidence.held).sum(0) > 1
    spread = float(np.sqrt(np.nanmean(np.nanvar(out[:, enough], axis=0, ddof=1)))) if enough.any() else 0.0
    return np.asarray(norm.logcdf((evidence.target - means) / (spread or float(np.nanstd(out)) or 1.0)))


def rmia(evidence: Evidence) -> Floats:
    """
    The share of the population whose ratio is at most the row's, ratio p(x) / p_ref(x) with
    p_ref = ((1 + a) mean_out + 1 - a) / 2; NaN for a row that every reference was trained on.
    """

    def ratio(target: Floats, out: Floats) -> Floats:
        mean = _mean_out(out)
        return np.asarray(_probability(target) / (((1 + OFFLINE) * mean + 1 - OFFLINE) / 2))

    rows = ratio(evidence.target, np.where(evidence.held, np.nan, _probability(evidence.references)))
    population = np.sort(ratio(evidence.population, _probability(evidence.population_references)))
    reached = np.searchsorted(population, rows, side="right") / len(population)
    # The population is small, so many rows have the same share; the ratio orders these.
    return np.where(np.isnan(rows), np.nan, reached + 1e-6 * np.tanh(rows))


def _mean_out(out: Floats) -> Floats:
    count = (~np.isnan(out)).sum(0)
    return np.where(count, np.nansum(out, axis=0) / np.maximum(count, 1), np.nan)


def _probability(log_odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))


ATTACKS = {"rmia": rmia, "lira": lira}


def attack(evidence: Mapping[str, Evidence]) -> dict[str, AttackResult]:
    """Each attack's figures over the rows of all silos, and for each silo; empty without evidence."""
    results = {}
    for name, score in ATTACKS.items() if evidence else ():
        scores = {silo: score(own) for silo, own in evidence.items()}
        kept = {silo: ~np.isnan(own) for silo, own in scores.items()}
        members = {silo: evidence[silo].member[kept[silo]] for silo in evidence}
        scores = {silo: scores[silo][kept[silo]] for silo in evidence}
        member = np.concatenate(list(members.values()))
        pooled = np.concatenate(list(scores.values()))
        silos = {silo: figures(members[silo], scores[silo]) for silo in evidence}
        results[name] = AttackResult(**vars(figures(member, pooled)), roc=_roc(member, pooled), silos=silos)
    return results


def figures(member: Bools, scores: Floats) -> AttackFigures:
    """
    AUC with the interval of Newcombe (2006), true positive rates with that of Clopper and Pearson (1934). None if
    there are no members or no others.
    """
    members, others = int(member.sum()), int((~member).sum())
    if not members or not others:
        return AttackFigures(members, others, (), None, None, None, None)
    auc = float(roc_auc_score(member, scores))
    tpr, tpr_interval = _tpr(member, scores, RATES[0])
    tpr_small, tpr_small_interval = _tpr(member, scores, RATES[1])
    return AttackFigures(
        members=members,
        others=others,
        notes=_too_few(others),
        auc=auc,
        ci95=(_auc_low(auc, members, others), 1 - _auc_low(1 - auc, others, members)),
        tpr_at_fpr_1_percent=tpr,
        tpr_at_fpr_1_percent_ci95=tpr_interval,
        tpr_at_fpr_01_percent=tpr_small,
        tpr_at_fpr_01_percent_ci95=tpr_small_interval,
    )


def _tpr(member: Bools, scores: Floats, rate: float) -> tuple[float, Interval]:
    """The true positive rate at a false positive rate, and its interval."""
    members, others = int(member.sum()), int((~member).sum())
    threshold = np.sort(scores[~member])[others - 1 - _allowed(rate, others)]
    hits = int((scores[member] > threshold).sum())
    return hits / members, exact_interval(hits, members)


def _allowed(rate: float, others: int) -> int:
    """How many rows that were not trained on an attack may take for members at this false positive rate."""
    return int(rate * others + 1e-9)


def _too_few(others: int) -> tuple[str, ...]:
    """One note for all false positive rates of which these rows are too few."""
    if not (rates := [f"{100 * rate:g} %" for rate in RATES if not _allowed(rate, others)]):
        return ()
    return (
        f"One of the {others} rows that were not trained on is {100 / others:.2f} % of them, so the true positive rate at a false "
        f"positive rate of {' or '.join(rates)} is given at 0.",
    )


def exact_interval(hits: int, tries: int) -> Interval:
    """The 95 % confidence interval of Clopper and Pearson (1934)."""
    low = 0.0 if hits == 0 else float(beta.ppf(SIGNIFICANCE / 2, hits, tries - hits + 1))
    high = 1.0 if hits == tries else float(beta.ppf(1 - SIGNIFICANCE / 2, hits + 1, tries - hits))
    return low, high


def _auc_low(auc: float, members: int, others: int) -> float:
    """
    Return the lower end of the 95 % interval: the AUC that lies 1.96 of its own standard errors below ``auc`` (Newcombe, 2006). The
    standard error at ``auc`` itself is not used, because it is 0 for an AUC of 1, even of three rows.
    """
    if auc <= 0:
        return 0.0
    quantile = float(norm.ppf(1 - SIGNIFICANCE / 2))
    return float(
        brentq(lambda low: auc - low - quantile * _auc_error(low, members, others), 0.0, min(auc, 1 - 1e-12))
    )


def _auc_error(auc: float, members: int, others: int) -> float:
    """The standard error of an AUC (Hanley and McNeil, 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    square = auc * (1 - auc) + (members - 1) * (q1 - auc**2) + (others - 1) * (q2 - auc**2)
    return math.sqrt(max(square, 0.0) / (members * others))


def _roc(member: Bools, scores: Floats) -> tuple[tuple[float, float], ...]:
    """Some points (false positive rate, true positive rate) of the curve."""
    if member.all() or not member.any():
        return ()
    false, true, _ = roc_curve(member, scores)
    at = np.unique(np.linspace(0, len(false) - 1, min(ROC_POINTS, len(false))).round().astype(int))
    return tuple((float(false[i]), float(true[i])) for i in at)
