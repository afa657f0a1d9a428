"""Whether a released accuracy has the claimed noise: it is released many times, for the same model and rows."""

from dataclasses import replace

import numpy as np
from scipy.stats import chi2

from fedtl.audit.retraining.audited_silo import AuditedSilo, scratch_guarantee, unlimited
from fedtl.audit.verdict import Measurement, not_exercised
from fedtl.privacy.guarantee import Releases
from fedtl.tasks.classification import correct

RELEASES = 64


def metric_noise(audited: AuditedSilo) -> Measurement:
    """The squared differences from the exact accuracy, over the claimed variance, are chi-square distributed."""
    metric = audited.guarantee.releases.accuracy
    if metric is None:
        return not_exercised("no metric is released")
    untrained = replace(
        unlimited(audited.guarantee, steps=audited.steps(0)), releases=Releases(accuracy=metric)
    )
    released = []
    for _ in range(RELEASES):
        with scratch_guarantee(untrained) as guarantee:
            update, _ = audited.fit(guarantee)
        released.append(update.metrics["accuracy"])
    noise = (np.array(released) - _exact_accuracy(audited)) / metric.mean_noise_std
    squares = float((noise**2).sum())
    p = 2 * min(chi2.cdf(squares, RELEASES), chi2.sf(squares, RELEASES))
    ratio = (squares / RELEASES) ** 0.5
    reason = f"the released accuracy has {ratio:.3f} times the claimed standard deviation {metric.mean_noise_std:.3g}"
    return Measurement(float(p), ratio, reason)


def _exact_accuracy(audited: AuditedSilo) -> float:
    """The mean over units of the share of a unit's validation rows that the initial model classifies correctly."""
    data = audited.data
    scores = audited.trainer.scores(audited.trainer.initial(data.width), data.val.x, data)
    right = correct(scores, data.val.y).numpy().astype(float)
    if audited.guarantee.protected.are_records or data.val.units is None:
        return float(right.mean())
    units = data.val.units.numpy()
    counts = np.bincount(units)
    return float((np.bincount(units, right)[counts > 0] / counts[counts > 0]).mean())
