"""Has a metric that leaves the noise that was claimed? It is released again and again, for the same model and the same rows."""

from dataclasses import replace

import numpy as np
from scipy.stats import chi2

from fedtl.audit.retraining.audited_silo import Stage, scratched, unlimited
from fedtl.audit.verdict import Measured
from fedtl.privacy.guarantee import Releases
from fedtl.training.metrics import correct

TIMES = 64


def metric_noise(stage: Stage) -> Measured:
    """About the exact figure, which the site knows: squares of the differences over the claimed variance are chi-square."""
    its = stage.guarantee.releases.accuracy
    if its is None:
        return None, None, "no metric is released"
    changed = unlimited(replace(stage.guarantee, releases=Releases(accuracy=its)), steps=stage.steps(0))
    released = []
    for _ in range(TIMES):
        with scratched(changed) as guarantee:
            update, _ = stage.fit(guarantee)
        released.append(update.metrics["accuracy"])
    noise = (np.array(released) - _exact(stage)) / its.mean_noise_std
    squares = float((noise**2).sum())
    p = 2 * min(chi2.cdf(squares, TIMES), chi2.sf(squares, TIMES))
    ratio = (squares / TIMES) ** 0.5
    reason = f"the released accuracy varies by {ratio:.3f} times the claimed {its.mean_noise_std:.3g}"
    return float(p), ratio, reason


def _exact(stage: Stage) -> float:
    """The mean over units of the share of a unit's validation rows that the first model gets right."""
    data = stage.data
    scores = stage.trainer.scores(stage.trainer.initial(data.width), data.val.x, data)
    right = correct(scores, data.val.y).numpy().astype(float)
    if stage.guarantee.protected.are_records or data.val.units is None:
        return float(right.mean())
    units = data.val.units.numpy()
    counts = np.bincount(units)
    return float((np.bincount(units, right)[counts > 0] / counts[counts > 0]).mean())
