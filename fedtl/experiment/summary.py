"""What the runs of a comparison show: per silo the means, their intervals, and whether joining helped."""

from collections import Counter
from collections.abc import Mapping, Sequence

import fedtl
from fedtl.experiment.best_method import choices, chosen_on
from fedtl.experiment.config.schema import ENSEMBLE, Experiment
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.scores import Reading, Results, Scores, estimates, mean_over_silos, read_scores
from fedtl.experiment.side_results import (
    CONSTANT,
    absent_reasons,
    changes,
    files,
    fingerprints,
    late_averages,
    received_averages,
    refitted_averages,
    statistics_warnings,
    target_averages,
)
from fedtl.experiment.verdicts import gains_of, overall
from fedtl.experiment.wire_costs import further_forms, wire_costs
from fedtl.models.folder_files import shown_name
from fedtl.report.bounds import bounded_gain
from fedtl.report.figures import TITLES, difference_unit, format_size, format_value
from fedtl.results.comparison import Benefit, Comparison, Estimate, Gain, LabelFreeChoice, Overall, Verdict
from fedtl.results.metrics import WorstSilo
from fedtl.tasks.metrics import better
from fedtl.training.metrics import worst_of

LOCAL, POOLED, PROBE = "local", "pooled", "probe"
YARDSTICKS = (LOCAL, ENSEMBLE, CONSTANT, PROBE, POOLED)  # not methods of joining: never "best"
MAX_NAMED = 6  # the most silos that a warning names
Gains = Mapping[str, Mapping[str, Gain]]  # by method and silo


def summarize_runs(experiment: Experiment, folders: Mapping[str, Sequence[RunFolder]]) -> Comparison:
    """
    Return the comparison of finished runs, without the time they took, so that a repetition gives the same bytes.

    ``folders``: per column of the comparison, one run for each seed and fold, in the order of ``compare.seeds``, the folds
    of a seed together.
    """
    metric = experiment.metric
    results = {label: [run.result() for run in runs] for label, runs in folders.items()}
    joining = {label: runs for label, runs in folders.items() if label not in YARDSTICKS}
    taken = _taken(experiment, joining, results)
    how = _reading(experiment, [label for label in folders if label in {*joining, ENSEMBLE}], taken)
    scores = read_scores(folders, results, how)
    margins = _margins(experiment, scores)
    gains = {label: gains_of(own, margins) for label, own in scores.over_local.items()}
    chosen_gains = gains_of(scores.chosen, margins)
    methods = estimates(scores)
    below = _below_constant(methods, metric, how.task.constant)
    return Comparison(
        fedtl=fedtl.__version__,
        task=experiment.data.task,
        metric=metric,
        model=shown_name(experiment.model.name),
        rounds=experiment.rounds,
        seeds=tuple(experiment.compare.seeds),
        methods=methods,
        mean={label: mean_over_silos(scores, label) for label in methods},
        worst={label: _worst(methods[label], metric) for label in methods},
        chosen_on=chosen_on(experiment),
        benefit={silo: _benefit(gain, taken[silo]) for silo, gain in chosen_gains.items()},
        over_local=gains,
        over_source={label: gains_of(own, margins) for label, own in scores.over_source.items()},
        label_free=_label_free(experiment, scores, taken, margins),
        warnings=(*changes(results), *_losses(gains, metric), *below, *statistics_warnings(results)),
        absent=_absent(absent_reasons(results, how.metrics), methods),
        received=received_averages(results),
        refitted=refitted_averages(results),
        target=target_averages(results),
        late=late_averages(results),
        overall=_overall(scores, gains),
        joining=overall(scores.chosen, chosen_gains),
        wire=wire_costs(results, scores, metric, margins),
        folds=experiment.compare.folds,
        margin=experiment.compare.margin,
        fingerprints={} if experiment.privacy else fingerprints(results),
        files=files(results),
    )


def _taken(
    experiment: Experiment, joining: Mapping[str, Sequence[RunFolder]], results: Results
) -> dict[str, list[str]]:
    """Return by silo the method that it takes in each run. No silo chooses in which form its weights are sent."""
    silos = sorted({silo for runs in results.values() for silo in runs[0].silos})
    forms = further_forms(results)
    joining = {label: runs for label, runs in joining.items() if label not in forms}
    return {silo: taken for silo in silos if (taken := choices(experiment, joining, silo))}


def _reading(experiment: Experiment, compared: Sequence[str], taken: Mapping[str, Sequence[str]]) -> Reading:
    task, main = experiment.data.predicted, experiment.metric
    metrics = tuple(dict.fromkeys((*task.metrics, main)))
    unlabelled = experiment.data.unlabelled
    return Reading(task, experiment.compare.folds, metrics, main, compared, LOCAL, taken.get, unlabelled)


def _overall(scores: Scores, gains: Gains) -> dict[str, Overall]:
    whole = {label: overall(scores.over_local[label], own) for label, own in gains.items()}
    return {label: own for label, own in whole.items() if own is not None}


def _margins(experiment: Experiment, scores: Scores) -> dict[str, float]:
    """Return by silo up to which difference methods are as good as each other, in the unit of the metric."""
    in_spreads = experiment.metric == "rmse"
    return {
        silo: experiment.compare.margin * (spread if in_spreads else 1.0)
        for silo, spread in scores.spread.items()
    }


def _benefit(gain: Gain, taken: Sequence[str]) -> Benefit:
    counts = Counter(taken)
    return Benefit(
        counts.most_common(1)[0][0],
        gain.mean,
        gain.ci95,
        gain.verdict,
        dict(counts) if len(counts) > 1 else {},
        gain.p,
        gain.p_as_good,
        gain.detectable,
        gain.margin,
    )


def _label_free(
    experiment: Experiment,
    scores: Scores,
    taken: Mapping[str, Sequence[str]],
    margins: Mapping[str, float],
) -> dict[str, LabelFreeChoice]:
    """Return what each silo without labels takes, and its gain."""
    gains, choices = gains_of(scores.chosen_label_free, margins), dict[str, LabelFreeChoice]()
    for silo in sorted(set(experiment.data.unlabelled) & taken.keys()):
        counts = Counter(taken[silo])
        best = counts.most_common(1)[0][0]
        choices[silo] = LabelFreeChoice(best, gains.get(silo), dict(counts) if len(counts) > 1 else {})
    return choices


def _losses(gains: Gains, metric: str) -> list[str]:
    """Return a warning for each method and silo where joining is shown to be worse than training alone."""
    return [
        f"{label} is worse than local at {silo} by {format_size(metric, -gain.mean)} {difference_unit(metric)} "
        f"(95 % interval {format_size(metric, -high)} to {format_size(metric, -low)})"
        for label, by_silo in gains.items()
        for silo, gain in by_silo.items()
        if gain.ci95 and gain.verdict is Verdict.LOSES
        for low, high in [bounded_gain(metric, gain.ci95)]
    ]


def _below_constant(
    methods: Mapping[str, Mapping[str, Mapping[str, Estimate]]], metric: str, what: str
) -> list[str]:
    """Return a warning for each method that is below the constant predictor, with the silos where it is."""
    floor = {silo: own[metric].mean for silo, own in methods.get(CONSTANT, {}).items() if metric in own}
    warnings = []
    for label, by_silo in methods.items():
        below = [
            f"{silo} ({format_value(metric, by_silo[silo][metric].mean)} against {format_value(metric, value)})"
            for silo, value in floor.items()
            if metric in by_silo.get(silo, {}) and better(metric, value, by_silo[silo][metric].mean)
        ]
        if below:
            more = f" and {len(below) - MAX_NAMED} more" if len(below) > MAX_NAMED else ""
            warnings.append(
                f"{label} has a worse {TITLES[metric]} than the constant answer ({what}) at "
                f"{', '.join(below[:MAX_NAMED])}{more}"
            )
    return warnings


def _absent(
    reasons: Mapping[str, Mapping[str, Mapping[str, str]]],
    methods: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
) -> dict[str, dict[str, dict[str, str]]]:
    """Return the reasons for metrics that are missing; what one fold lacks, all folds of a seed together may have."""
    kept: dict[str, dict[str, dict[str, str]]] = {}
    for label, by_silo in reasons.items():
        for silo, own in by_silo.items():
            if missing := {name: why for name, why in own.items() if name not in methods[label][silo]}:
                kept.setdefault(label, {})[silo] = missing
    return kept


def _worst(by_silo: Mapping[str, Mapping[str, Estimate]], metric: str) -> WorstSilo:
    return worst_of(
        metric, {silo: {name: it.mean for name, it in own.items()} for silo, own in by_silo.items()}
    )
