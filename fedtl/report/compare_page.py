"""The HTML page of a comparison, from its comparison.json, validation curves and experiment.toml. Computes no figure."""

from collections.abc import Mapping

from fedtl._util.counted import counted
from fedtl.report import gain_plots, helper_plots, plots
from fedtl.report.answer import answer
from fedtl.report.answer_tables import CLASSES, recall_grid
from fedtl.report.figures import (
    LATE_ROWS,
    TITLES,
    Curve,
    all_silos,
    format_average,
    format_difference,
    format_value,
    format_with_interval,
    missing_in_comparison,
    silo_count_note,
)
from fedtl.report.helper_tables import helper_grid, helper_note
from fedtl.report.html import Cell, Grid, Plot, plot, render, row
from fedtl.report.label_free_tables import HOW, label_free_grid
from fedtl.report.page_notes import STATISTICS, comparison_guarantee, one_run_note, origin_note
from fedtl.report.page_tables import (
    bytes_grid,
    file_grid,
    fingerprint_grid,
    late_grid,
    refitted_grid,
    target_grid,
)
from fedtl.report.silo_cards import comparison_cards
from fedtl.report.trials import trial_lines, trials_grid, yardstick_lines
from fedtl.report.verdict_tables import benefit_cells, overall_grid, verdict_notes
from fedtl.report.wire_tables import HOW as WIRE
from fedtl.report.wire_tables import wire_grid
from fedtl.results.comparison import ChosenOn, Comparison, Estimate, Gain
from fedtl.results.metrics import WorstSilo
from fedtl.results.page_facts import ComparisonFacts
from fedtl.tasks.registry import TASKS

_MAY_DIFFER = (
    "so another method may score higher on its test rows. Each run chooses for itself, because rows that one run validates on "
    "may be test rows of another; so the choice saw no row that it is judged on, and the gain of the chosen methods is not "
    "flattered by the choice. Yardsticks (local, local ensemble, constant, probe, pooled) are never chosen."
)
CHOICE = {  # by ``chosen_on`` of comparison.json
    ChosenOn.VALIDATION: "In each run, the best method of a silo was chosen on its validation rows (by the loss where they do not give the "
    f"metric), {_MAY_DIFFER}",
    ChosenOn.RELEASED: "In each run, the best method of a silo was chosen by the noisy accuracy that the silo released in its last round "
    f"and charged to its privacy budget, {_MAY_DIFFER}",
    None: "No best method and no verdict: exact results on private validation rows would reveal information about these "
    'rows without a charge to the privacy budget. With privacy.metrics = ["accuracy"] silos release a noisy accuracy '
    "by which the best method is chosen.",
}


def compare_page(
    comparison: Comparison,
    curves: Mapping[str, Curve],
    experiment_toml: str,
    facts: ComparisonFacts | None = None,
) -> str:
    """
    Return the page. ``comparison``: comparison.json. ``curves``: the mean validation result by method. ``facts``: of the folder of a
    comparison.
    """
    return render(
        "page.html.j2",
        title=f"Does joining help? {comparison.model}, {counted(comparison.rounds, 'round')}",
        answer=answer(comparison),
        warnings=comparison.warnings,
        main=_main_grid(comparison),
        cards=comparison_cards(comparison, facts) if facts else [],
        recall=recall_grid(facts) if facts else None,
        overall=overall_grid(comparison),
        details=_over_local_grid(comparison),
        refitted=_refitted_grid(comparison),
        trials=trials_grid(comparison),
        plots=_plots(comparison, curves),
        target=_target_grid(comparison),
        late=_late_grid(comparison),
        label_free=label_free_grid(comparison),
        wire=wire_grid(comparison),
        helpers=helper_grid(comparison),
        sent=bytes_grid("method", facts.sent) if facts else None,
        notes=_notes(comparison, facts),
        fingerprints=fingerprint_grid(comparison.fingerprints),
        files=file_grid(comparison.files),
        experiment=experiment_toml,
        version=comparison.fedtl,
    )


def _notes(comparison: Comparison, facts: ComparisonFacts | None) -> list[str]:
    """How to read the page."""
    metric, seeds = comparison.metric, comparison.seeds
    listed = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return [
        *missing_in_comparison(comparison),
        f"Test {TITLES[metric]}: mean of {listed}, with the ends of its 95 % interval. Each run read its test rows once, at "
        "the end.",
        STATISTICS,
        *trial_lines(comparison),
        *yardstick_lines(comparison),
        CHOICE[comparison.chosen_on],
        *verdict_notes(comparison),
        *([CLASSES] if facts and facts.recall else []),
        *([HOW] if comparison.label_free else []),
        *([WIRE] if comparison.wire else []),
        *([helper_note(comparison.who_helps, len(seeds))] if comparison.who_helps else []),
        f"Each method has its own worst silo. All runs together took {comparison.seconds:.1f} s.",
        comparison_guarantee(comparison.privacy, comparison.folds),
        *([one_run_note(facts.one_run, comparison.privacy is not None)] if facts and facts.one_run else []),
        *([origin_note(facts.origin)] if facts else []),
    ]


def _plots(comparison: Comparison, curves: Mapping[str, Curve]) -> list[Plot]:
    drawn, metric = [], comparison.metric
    if comparison.benefit:
        drawn.append(plot("Gain over training alone, by silo", gain_plots.benefit_forest(comparison)))
    if comparison.overall:
        drawn.append(plot("Mean gain over training alone, by method", gain_plots.mean_gains(comparison)))
    drawn.append(plot("Test result of each method at each silo", plots.method_dots(comparison)))
    if curves:
        curve, private = TASKS[comparison.task].curve, bool(comparison.privacy)
        svg = plots.convergence(curves, len(all_silos(comparison)), curve, private)
        drawn.append(plot("Validation by round and method", svg))
    if comparison.who_helps:
        alternative = "Who helps whom: heat map; the table below it has the values"
        drawn.append(plot(alternative, helper_plots.helpers(comparison.who_helps, metric)))
    return drawn


def _main_grid(comparison: Comparison) -> Grid:
    metric, methods, benefit = comparison.metric, comparison.methods, comparison.benefit
    silos = all_silos(comparison)
    blank = row("", "", "", "") if benefit else []
    rows = []
    for name in silos:
        verdict = benefit.get(name)
        figures = (
            Cell(
                format_with_interval(metric, by_silo.get(name, {}).get(metric)),
                "best" if verdict and verdict.best == method else "",
            )
            for method, by_silo in methods.items()
        )
        rows.append([Cell(name), *figures, *(benefit_cells(comparison, name) if verdict else blank)])
    means = (_mean_of_silos(metric, comparison.mean[method].get(metric), len(silos)) for method in methods)
    worst = (_worst_silo(metric, comparison.worst[method], len(silos)) for method in methods)
    rows += [row("mean", *means) + blank, row("worst silo", *worst) + blank]
    if comparison.epochs:
        epochs = (comparison.epochs.get(method, "-") for method in methods)
        rows.append(row("epochs a silo trains", *epochs) + blank)
    head = [
        "silo",
        *methods,
        *(["best", "over local", "joining", "detectable"] if benefit else []),
    ]
    return Grid(
        f"Test {TITLES[metric]} of each method at each silo, with its 95 % interval",
        head,
        rows,
        summary_rows=3 if comparison.epochs else 2,
    )


def _over_local_grid(comparison: Comparison) -> Grid:
    """The difference to training alone of every method, not only of the best."""
    metric, over = comparison.metric, comparison.over_local
    rows = [
        row(name, *(_over_local(metric, by_silo.get(name)) for by_silo in over.values()))
        for name in all_silos(comparison)
        if any(name in by_silo for by_silo in over.values())
    ]
    return Grid(f"Each method minus local, {TITLES[metric]}, with its 95 % interval", ["silo", *over], rows)


def _over_local(metric: str, gain: Gain | None) -> str:
    return format_difference(metric, gain.mean, gain.ci95) if gain else "-"


def _refitted_grid(comparison: Comparison) -> Grid:
    metric, methods = comparison.metric, comparison.methods
    rows = [
        row(
            name,
            method,
            format_average(metric, comparison.received[method].get(name))
            if method in comparison.received
            else _mean(metric, methods[method].get(name, {})),
            format_average(metric, figures),
        )
        for method, by_silo in comparison.refitted.items()
        for name, figures in by_silo.items()
    ]
    return refitted_grid(metric, ["silo", "method"], rows)


def _target_grid(comparison: Comparison) -> Grid:
    metric = comparison.metric
    rows = [
        row(
            name,
            method,
            *(format_average(metric, variants.get(variant)) for variant in ("target", "target_adabn")),
        )
        for method, by_silo in comparison.target.items()
        for name, variants in by_silo.items()
    ]
    return target_grid(metric, ["silo", "method"], rows)


def _late_grid(comparison: Comparison) -> Grid:
    metric = comparison.metric
    rows = [
        row(name, method, LATE_ROWS[variant], format_average(metric, figures))
        for method, by_silo in comparison.late.items()
        for name, variants in by_silo.items()
        for variant, figures in variants.items()
    ]
    return late_grid(metric, ["silo", "method"], rows)


def _mean(metric: str, figures: Mapping[str, Estimate]) -> str:
    return format_value(metric, figures[metric].mean if metric in figures else None)


def _mean_of_silos(metric: str, mean: Estimate | None, silos: int) -> str:
    return format_with_interval(metric, mean) + (silo_count_note(mean.silos, silos) if mean else "")


def _worst_silo(metric: str, worst: WorstSilo, silos: int) -> str:
    if metric not in worst.figures:
        return "-"
    return (
        f"{format_value(metric, worst.figures[metric])} ({worst.silo}){silo_count_note(worst.silos, silos)}"
    )
