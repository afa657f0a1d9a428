"""The HTML page of one run, from its result.json, history.jsonl and experiment.toml. Computes no figure."""

from collections.abc import Iterator, Sequence

from fedtl._util.counted import counted
from fedtl.report import interpolation_plots, plots
from fedtl.report.answer_tables import RECOGNISED, confusion_grids
from fedtl.report.calibration_plots import calibration
from fedtl.report.feature_plots import feature_maps
from fedtl.report.figures import (
    LATE_ROWS,
    TITLES,
    format_value,
    measured_metrics,
    missing_in_run,
    silo_count_note,
)
from fedtl.report.html import Grid, Plot, plot, render, row
from fedtl.report.page_notes import STATISTICS, origin_note, run_guarantee
from fedtl.report.page_tables import (
    bytes_grid,
    file_grid,
    fingerprint_grid,
    late_grid,
    refitted_grid,
    target_grid,
)
from fedtl.report.silo_cards import run_cards
from fedtl.results.metrics import Measured
from fedtl.results.page_facts import Features, RunFacts
from fedtl.results.run import HistoryLine, RunResult


def run_page(
    result: RunResult,
    history: Sequence[HistoryLine],
    experiment_toml: str,
    facts: RunFacts | None = None,
    features: Features | None = None,
) -> str:
    """
    Return the page. ``result``: result.json. ``history``: the lines of history.jsonl. ``facts``: of the folder of a run.
    ``features``: of its test rows, where they are asked for.
    """
    answers = facts.answers if facts else {}
    return render(
        "page.html.j2",
        title=f"{result.method} on {result.model}, {counted(result.rounds, 'round')}, seed {result.seed}",
        answer=_answer(result),
        warnings=[*_left_out(result), *result.notes],
        main=_main_grid(result),
        cards=run_cards(result, facts) if facts else [],
        confusions=confusion_grids(answers),
        sent=bytes_grid("method", {result.method: facts.sent}) if facts else None,
        statistics=_statistics_grid(features) if features else None,
        overall=None,
        details=None,
        trials=None,
        refitted=_refitted_grid(result),
        plots=list(_plots(result, history, facts, features)),
        target=_target_grid(result),
        late=_late_grid(result),
        notes=[
            *missing_in_run(result),
            "Test rows were read once, after the last round. In the mean over silos each silo has the same weight.",
            STATISTICS,
            "Validation rows are taken from each silo's training rows and are never trained on.",
            f"The silos sent {result.bytes_up:,} bytes{_saved(result)} and received {result.bytes_down:,}. The run took "
            f"{result.seconds:.1f} s on {result.device} with {result.workers} "
            f"worker{'s' * (result.workers != 1)}.",
            *([RECOGNISED] if answers else []),
            run_guarantee(result.privacy),
            *([origin_note(facts.origin)] if facts else []),
        ],
        fingerprints=fingerprint_grid(result.fingerprints),
        files=file_grid(result.files),
        experiment=experiment_toml,
        version=result.fedtl,
    )


def _plots(
    result: RunResult,
    history: Sequence[HistoryLine],
    facts: RunFacts | None,
    features: Features | None,
) -> Iterator[Plot]:
    if any(figures for line in history for figures in line.silos.values()):  # a private run may have none
        yield plot("Validation by round", plots.learning_curves(history, bool(result.privacy)))
    if result.mean:
        yield plot("Test result of each silo", plots.silo_bars(result))
    if curves := {name: silo.interpolated for name, silo in result.silos.items() if silo.interpolated}:
        yield plot("Loss between two models", interpolation_plots.interpolation_curves(curves))
    if facts and facts.answers:
        yield plot("Are the probabilities true?", calibration(facts.answers))
    if facts and facts.epsilon:
        yield plot("Epsilon by round", plots.epsilon_by_round(facts.epsilon))
    if features:
        yield plot("Features of test rows before and after training", feature_maps(features))


def _statistics_grid(features: Features) -> Grid:
    """How far the normalisation statistics of each silo's model are from the mean over silos, the farthest first."""
    far = sorted(features.statistics.items(), key=lambda item: -item[1])
    caption = (
        "How far each silo's normalisation statistics are from the mean over silos, in standard deviations"
    )
    return Grid(caption, ["silo", "distance"], [row(name, f"{distance:.2f}") for name, distance in far])


def _answer(result: RunResult) -> str:
    metric, worst = result.metric, result.worst
    count = silo_count_note(result.mean_silos.get(metric), len(result.silos))
    mean = (
        f"The mean test {TITLES[metric]} over silos is {format_value(metric, result.mean.get(metric))}{count}"
    )
    if not worst.silo:
        return f"{mean}."
    return f"{mean}; the worst is {format_value(metric, worst.figures.get(metric))}{count}, at {worst.silo}."


def _saved(result: RunResult) -> str:
    """Return what compression saved; "" where nothing was compressed."""
    if result.wire == "float32" or not result.bytes_up:
        return ""
    times = result.bytes_full / result.bytes_up
    return (
        f" (weights as {result.wire}; {result.bytes_full:,} without compression, {times:.1f} times as many)"
    )


def _left_out(result: RunResult) -> list[str]:
    return [
        f"{name} was left out {len(reasons)} time{'s' * (len(reasons) > 1)}, most recently in {reasons[-1]}"
        for name, reasons in result.left_out.items()
    ]


def _main_grid(result: RunResult) -> Grid:
    silos, metrics = result.silos, measured_metrics(result)
    head = ["silo", "training rows", "validation rows", "test rows", *(TITLES[metric] for metric in metrics)]
    rows = [
        row(
            name,
            *(silo.train, silo.val, silo.test),
            *(_value(metric, silo.measured) for metric in metrics),
        )
        for name, silo in silos.items()
    ]
    means = (
        format_value(metric, result.mean.get(metric))
        + silo_count_note(result.mean_silos.get(metric), len(silos))
        for metric in metrics
    )
    rows.append(row("mean", "", "", "", *means))
    return Grid("Test results of each silo's own model", head, rows, summary_rows=1)


def _refitted_grid(result: RunResult) -> Grid:
    metric = result.metric
    rows = [
        row(name, _value(metric, silo.received or silo.measured), _value(metric, silo.refitted))
        for name, silo in result.silos.items()
        if silo.refitted
    ]
    return refitted_grid(metric, ["silo"], rows)


def _target_grid(result: RunResult) -> Grid:
    metric = result.metric
    rows = [
        row(name, _value(metric, silo.target), _value(metric, silo.target_adabn))
        for name, silo in result.silos.items()
        if silo.target or silo.target_adabn
    ]
    return target_grid(metric, ["silo"], rows)


def _late_grid(result: RunResult) -> Grid:
    metric = result.metric
    rows = [
        row(silo, LATE_ROWS[variant], _value(metric, measured))
        for silo, variants in result.late.items()
        for variant, measured in variants.items()
    ]
    return late_grid(metric, ["silo"], rows)


def _value(metric: str, measured: Measured | None) -> str:
    return format_value(metric, measured.figures.get(metric) if measured else None)
