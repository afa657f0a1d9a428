"""What the runs of a comparison show: per silo the means, their intervals, and whether joining helped."""

from collections.abc import Mapping, Sequence

import fedtl
from fedtl.experiment.best_method import best_method, chosen_on
from fedtl.experiment.bootstrap import verdict
from fedtl.experiment.config.schema import ENSEMBLE, Experiment
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.scores import Scores, gain_over_local, mean_over_silos, read_scores
from fedtl.experiment.side_results import (
    CONSTANT,
    absent_reasons,
    below_constant,
    late_averages,
    received_averages,
    refitted_averages,
    statistics_warnings,
    target_averages,
)
from fedtl.results.comparison import Benefit, Comparison, Gain, Verdict
from fedtl.results.metrics import WorstSilo
from fedtl.training.metrics import CLASSIFICATION, REGRESSION, worst_of

LOCAL, POOLED, PROBE = "local", "pooled", "probe"
YARDSTICKS = (LOCAL, ENSEMBLE, CONSTANT, PROBE, POOLED)  # not methods of joining: never "best"
Gains = Mapping[str, Mapping[str, Gain]]  # by method and silo


def summarize_runs(experiment: Experiment, folders: Mapping[str, Sequence[RunFolder]]) -> Comparison:
    """
    Return the comparison of finished runs, without the time they took, so that a repetition gives the same bytes.

    ``folders``: per column of the comparison, one run a seed, in the order of ``compare.seeds``.
    """
    metric = experiment.metric
    metrics = REGRESSION if experiment.data.task == "regression" else CLASSIFICATION
    results = {label: [run.result() for run in runs] for label, runs in folders.items()}
    joining = {label: runs for label, runs in folders.items() if label not in YARDSTICKS}
    scores = read_scores(folders, results, metrics)
    gains = {
        label: _gains(scores, label, metric) for label in folders if label in joining or label == ENSEMBLE
    }
    return Comparison(
        fedtl=fedtl.__version__,
        task=experiment.data.task,
        metric=metric,
        model=experiment.model.name,
        rounds=experiment.rounds,
        seeds=tuple(experiment.compare.seeds),
        methods=scores.estimates,
        mean={label: mean_over_silos(scores, label) for label in folders},
        worst={label: _worst(scores, label, metric) for label in folders},
        chosen_on=chosen_on(experiment),
        benefit=_benefit(experiment, joining, scores.silos, gains),
        over_local=gains,
        warnings=(*_losses(gains, metric), *below_constant(scores, metric), *statistics_warnings(results)),
        absent=absent_reasons(results, metrics),
        received=received_averages(results),
        refitted=refitted_averages(results),
        target=target_averages(results),
        late=late_averages(results),
    )


def _gains(scores: Scores, label: str, metric: str) -> dict[str, Gain]:
    """Return the gain of a method over training alone, by silo; only of silos where both were measured."""
    gains = {silo: gain_over_local(scores, label, LOCAL, silo, metric) for silo in scores.silos}
    return {silo: gain for silo, gain in gains.items() if gain is not None}


def _benefit(
    experiment: Experiment, joining: Mapping[str, Sequence[RunFolder]], silos: Sequence[str], gains: Gains
) -> dict[str, Benefit]:
    best = {silo: best_method(experiment, joining, silo) for silo in silos}
    compared = {silo: label for silo, label in best.items() if label and silo in gains[label]}
    return {
        silo: Benefit(
            label, gains[label][silo].mean, gains[label][silo].ci95, verdict(gains[label][silo].ci95)
        )
        for silo, label in compared.items()
    }


def _losses(gains: Gains, metric: str) -> list[str]:
    """Return a warning for each method and silo where joining is worse than training alone."""
    return [
        f"{label} is worse than local at {silo} by {-gain.mean:.3f} in {metric} "
        f"(95 % interval {-gain.ci95[1]:.3f} to {-gain.ci95[0]:.3f})"
        for label, by_silo in gains.items()
        for silo, gain in by_silo.items()
        if gain.ci95 and verdict(gain.ci95) is Verdict.LOSES
    ]


def _worst(scores: Scores, label: str, metric: str) -> WorstSilo:
    by_silo = scores.estimates[label].items()
    return worst_of(metric, {silo: {name: it.mean for name, it in own.items()} for silo, own in by_silo})
