"""
Results as pandas DataFrames. A metric that was not measured is NaN, never 0. Intervals end where the metric does, as on the page
(``report.bounds``); ``result`` has what was computed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from fedtl.report.bounds import bounded, bounded_gain, could_be_seen

if TYPE_CHECKING:
    from fedtl.results.comparison import Comparison
    from fedtl.results.run import HistoryLine, RunResult


def run_metrics(result: "RunResult") -> pd.DataFrame:
    """Test metrics of each silo's own model: a row per silo, a column per metric."""
    rows = {silo: dict(silo_result.measured.figures) for silo, silo_result in result.silos.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("silo")


def run_table(result: "RunResult") -> pd.DataFrame:
    """``run_metrics`` with the number of rows and, in a private run, the epsilon and delta of each silo."""
    rows = {
        silo: {"train": rows.train, "val": rows.val, "test": rows.test} for silo, rows in result.silos.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("silo").join(run_metrics(result))
    guarantees = (result.privacy and result.privacy.silos) or {}
    for column in ("epsilon", "delta") if guarantees else ():
        table[column] = pd.Series(
            {silo: getattr(guarantee, column) for silo, guarantee in guarantees.items()}
        )
    return table


def run_history(lines: Sequence["HistoryLine"]) -> pd.DataFrame:
    """Validation metrics of the received model: a row per round and silo, a column per metric."""
    rows = [{"round": line.round, "silo": silo, **own} for line in lines for silo, own in line.silos.items()]
    return pd.DataFrame(rows, columns=None if rows else ["round", "silo"]).set_index(["round", "silo"])


def comparison_metrics(comparison: "Comparison") -> pd.DataFrame:
    """A row per method, silo and metric: the mean over seeds and its 95 % interval, ``low`` to ``high``."""
    rows = [
        {
            "method": method,
            "silo": silo,
            "metric": metric,
            "mean": value.mean,
            **_interval(bounded(metric, value.ci95 or ())),
        }
        for method, silos in comparison.methods.items()
        for silo, metrics in silos.items()
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(rows).set_index(["method", "silo", "metric"])


def comparison_table(comparison: "Comparison") -> pd.DataFrame:
    """The main metric: a row per method, a column per silo, and the mean over silos."""
    metric = comparison.metric
    rows = {
        method: {silo: own[metric].mean for silo, own in silos.items() if metric in own}
        | ({"mean": comparison.mean[method][metric].mean} if metric in comparison.mean[method] else {})
        for method, silos in comparison.methods.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def comparison_verdicts(comparison: "Comparison") -> pd.DataFrame:
    """
    Whether joining helped: a row per silo with its best method, that method's gain over ``local``, and the verdict with its p-value.
    ``detectable`` is NaN where no gain could have been seen.
    """
    rows = {
        silo: {
            "best": benefit.best,
            "over_local": benefit.over_local,
            **_interval(bounded_gain(comparison.metric, benefit.ci95 or ())),
            "verdict": str(benefit.verdict),
            "p": benefit.p,
            "detectable": benefit.detectable if could_be_seen(comparison, silo) else float("nan"),
        }
        for silo, benefit in comparison.benefit.items()
    }
    columns = ["best", "over_local", "low", "high", "verdict", "p", "detectable"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("silo")


def comparison_trials(comparison: "Comparison") -> pd.DataFrame:
    """The values that were tried on validation rows: a row per trial with its loss, and whether it was chosen."""
    rows = [
        {
            "method": method,
            "seed": tuning.seed,
            "fold": tuning.fold,
            **trial.settings,
            "loss": float("nan") if trial.loss is None else trial.loss,
            "chosen": trial.settings == tuning.chosen,
        }
        for method, tunings in comparison.tuning.items()
        for tuning in tunings
        for trial in tuning.trials
    ]
    table = pd.DataFrame(rows, columns=None if rows else ["method", "seed", "fold", "loss", "chosen"])
    return table.set_index(["method", "seed", "fold"])


def comparison_overall(comparison: "Comparison") -> pd.DataFrame:
    """
    Each method over all silos, and first "chosen", the methods that silos choose: the mean gain over ``local`` with its
    interval and verdict, the number of silos, at how many it is better, not worse, and surely not worse, and the worst gain.
    """
    chosen = {"chosen": comparison.joining} if comparison.joining else {}
    rows = {
        name: {
            "mean_gain": own.mean.mean,
            **_interval(bounded_gain(comparison.metric, own.mean.ci95 or ())),
            "verdict": str(own.mean.verdict),
            "silos": own.silos,
            "better": own.better,
            "not_worse": own.not_worse,
            "loss_excluded": own.loss_excluded,
            "worst_silo": own.worst,
            "worst_gain": own.worst_gain.mean,
        }
        for name, own in {**chosen, **comparison.overall}.items()
    }
    columns = ["mean_gain", "low", "high", "verdict", "silos", "better", "not_worse", "loss_excluded"]
    columns += ["worst_silo", "worst_gain"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("method")


def _interval(ends: Sequence[float]) -> dict[str, float]:
    return {"low": ends[0] if ends else float("nan"), "high": ends[1] if ends else float("nan")}
