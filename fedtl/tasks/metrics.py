"""The table of metrics: how each is computed with weights on rows, in which direction it is better, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedtl.tasks import label_metrics, pixel_metrics, row_metrics, survival_metrics
from fedtl.tasks.row_metrics import Answers, Figure, Floats

Rests = Literal["rows", "classes", "pairs", "values"]


@dataclass(frozen=True)
class Metric:
    """
    ``figure``: [R], the metric with each row of weights [R, N]; NaN where it is undefined. ``rests``: what the metric is computed from:
    a share of "rows" that are right or wrong; shares of the rows of each of the "classes"; "pairs" of rows of two classes; or
    "values" that vary from row to row. ``low`` and ``high``: its limits.
    """

    title: str
    figure: Figure
    rests: Rests
    lower_is_better: bool = False
    percent: bool = False
    low: float = 0.0
    high: float = 1.0


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy (%)", row_metrics.accuracy, "rows", percent=True),
    "balanced_accuracy": Metric(
        "balanced accuracy (%)", row_metrics.balanced_accuracy, "classes", percent=True
    ),
    "auc": Metric("AUC (%)", row_metrics.auc, "pairs", percent=True),
    "macro_auc": Metric("macro AUC (%)", label_metrics.macro_auc, "values", percent=True),
    "macro_f1": Metric("macro F1 (%)", label_metrics.macro_f1, "values", percent=True),
    "ece": Metric("calibration error (%)", label_metrics.calibration_error, "values", True, percent=True),
    "kappa": Metric("quadratic kappa", label_metrics.quadratic_kappa, "values", low=-1.0),
    "mae": Metric(
        "mean absolute error", label_metrics.mean_absolute_error, "values", lower_is_better=True, high=np.inf
    ),
    "concordance": Metric("concordance (%)", survival_metrics.concordance, "values", percent=True),
    "brier": Metric("Brier score", survival_metrics.brier, "values", lower_is_better=True, high=np.inf),
    "calibration": Metric(
        "calibration distance", survival_metrics.calibration, "values", lower_is_better=True
    ),
    "dice": Metric("Dice (%)", pixel_metrics.dice, "values", percent=True),
    "pixel_accuracy": Metric("pixel accuracy (%)", pixel_metrics.pixel_accuracy, "values", percent=True),
    "d2": Metric("D²", label_metrics.d2, "values", low=-np.inf),
    "deviance": Metric("deviance", label_metrics.deviance, "values", lower_is_better=True, high=np.inf),
    "r2": Metric("R²", row_metrics.r2, "values", low=-np.inf),
    "rmse": Metric("RMSE", row_metrics.rmse, "values", lower_is_better=True, high=np.inf),
    "loss": Metric("loss", row_metrics.loss, "values", lower_is_better=True, high=np.inf),
}


def figure(metric: str, answers: Answers, weights: Floats) -> Floats:
    """Return [R]: the metric with each row of ``weights`` [R, N] as weights; NaN where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        own = {} if answers.task is None else answers.task.own_figures
        return own.get(metric, METRICS[metric].figure)(answers, weights)


def better(metric: str, a: float, b: float) -> bool:
    """Return whether ``a`` is the better value of the metric."""
    return a < b if METRICS[metric].lower_is_better else a > b
