"""One HTML page that needs nothing but itself: no script, no request. Lays out; computes and decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from fedtl.report import plots
from fedtl.report.figures import (
    LATE_ROWS,
    TITLES,
    Curve,
    absences_of_run,
    absences_of_runs,
    difference,
    mean_of,
    one,
    over_silos,
    short_difference,
    shown,
    silos_of,
    with_interval,
)
from fedtl.report.wording import not_covered
from fedtl.results.comparison import Benefit, ChosenOn, Comparison, Estimate, Verdict
from fedtl.results.metrics import Measured, WorstSilo
from fedtl.results.privacy import PrivacyReport
from fedtl.results.run import HistoryLine, RunResult

DRAWN_AGAIN = "Not private: the noise can be drawn again (privacy.noise = reproducible)"
FEW = 6  # silos that the answer still names
NEVER = "so another may do better on its test rows; local, probe and pooled are yardsticks and never chosen."
CHOICE = {  # by what ``summary`` says that a silo's best method was chosen on
    ChosenOn.VALIDATION: "A silo's best method was chosen on its validation rows (on their loss, where they cannot give the "
    f"figure), {NEVER}",
    ChosenOn.RELEASED: "A silo's best method was chosen on the accuracy that it released in its last round, noisy and "
    f"charged, {NEVER}",
    None: "No method is named as a silo's best, and no verdict given: chosen on exact figures of private validation rows, "
    'it would tell about them and be charged nowhere. With privacy.metrics = ["accuracy"] silos release a noisy one.',
}
STATISTICS = (
    "Statistics of the norms: where a method keeps them at the silo, figures are of the exact ones of the silo's training "
    "inputs, under every method alike; where it shares them, of the shared ones, and beside these of exact ones. A private "
    "run fits exact ones after its last release, and only with privacy.statistics = local-after."
)
VERBS = {Verdict.UNCLEAR: "unclear", Verdict.LOSES: "lose"}


class Cell(NamedTuple):
    """One cell, and the class it is drawn with."""

    text: object
    look: str = ""


@dataclass(frozen=True)
class Grid:
    """One table."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    last: int = 0  # so many rows at the end sum up the others


class Plot(NamedTuple):
    """One drawing, and what to call it where it cannot be seen."""

    name: str
    svg: Markup


def run_page(result: RunResult, history: Sequence[HistoryLine], experiment_toml: str) -> str:
    """The page of one run: ``result.json``, the lines of ``history.jsonl`` and its resolved TOML."""
    metric, worst, silos = result.metric, result.worst, len(result.silos)
    of = over_silos(result.mean_silos.get(metric), silos)
    answer = f"Mean test {TITLES[metric]}: {one(metric, result.mean.get(metric))}{of}"
    answer += f"; worst: {one(metric, worst.figures.get(metric))}{of} at {worst.silo}." if worst.silo else "."
    left_out = [
        f"{name} was left out {len(reasons)} time{'s' * (len(reasons) > 1)}, last in {reasons[-1]}"
        for name, reasons in result.left_out.items()
    ]
    drawn = (
        [_plot("Validation by round", plots.learning_curves(history, bool(result.privacy)))]
        if any(figures for line in history for figures in line.silos.values())  # private silos tell none
        else []
    )
    return render(
        title=f"{result.method} on {result.model}, {result.rounds} rounds, seed {result.seed}",
        answer=answer,
        warnings=[*left_out, *result.notes],
        main=_run_grid(result),
        details=None,
        refitted=_run_refitted(result),
        plots=[*drawn, _plot("Test figure of each silo", plots.silo_bars(result))],
        target=_run_target(result),
        late=_run_late(result),
        notes=[
            *absences_of_run(result),
            "Test rows were read once, at the end, after the last round. The mean over silos is plain: each counts once.",
            STATISTICS,
            "Validation rows were taken from each silo's training rows and never trained on.",
            f"{result.bytes_up:,} bytes left the silos in all, {result.bytes_down:,} came in; "
            f"{result.seconds:.1f} s on {result.device}, {result.workers} at once.",
            _privacy(result.privacy),
        ],
        experiment=experiment_toml,
        version=result.fedtl,
    )


def _privacy(privacy: PrivacyReport | None) -> str:
    """What is claimed, in one sentence; the numbers of each silo are in result.json."""
    if privacy is None:
        return "Without differential privacy: what was shared can tell about a silo's rows."
    if not privacy.private:
        return f"{DRAWN_AGAIN}; {_tuning(privacy)}."
    worst = max((privacy.silos or {}).values(), key=lambda its: its.epsilon)
    return (
        f"Differential privacy for each {privacy.unit}, {privacy.adjacency}: at most epsilon = "
        f"{worst.epsilon:.3f} at delta = {worst.delta:.0e} in a silo ({worst.epsilon_replace_one:.3f} for "
        f"replace-one), as its ledger says; {_tuning(privacy)}. {not_covered(privacy.unit)} The test figures here are "
        "of a simulation: published, they would tell about test rows."
    )


def _privacy_of_runs(privacy: PrivacyReport | None) -> str:
    """What is claimed of a comparison's runs, each by itself."""
    if privacy is None:
        return _privacy(None)
    if not privacy.private:
        return f"{DRAWN_AGAIN}; {_tuning(privacy)}."
    return (
        f"Each run of a method that shares keeps epsilon = {privacy.epsilon:g} for each {privacy.unit} "
        f"({privacy.adjacency}); its result.json says what was spent. Released together, the runs' epsilons add. "
        f"{not_covered(privacy.unit)} "
        "The test figures here are of a simulation: published, they would tell about test rows. "
        f"Yardsticks are never private; {_tuning(privacy)}."
    )


def _tuning(privacy: PrivacyReport) -> str:
    """Where the settings come from; said whatever else is claimed."""
    return f"tuning on private data: {privacy.tuning}"


def compare_page(comparison: Comparison, curves: Mapping[str, Curve], experiment_toml: str) -> str:
    """The page of a comparison. ``curves``: validation figures by method."""
    metric, benefit = comparison.metric, comparison.benefit
    drawn = [_plot("Gain over training alone, by silo", plots.benefit_forest(comparison))] if benefit else []
    drawn.append(_plot("Test figure of each method at each silo", plots.method_dots(comparison)))
    if curves:
        followed = "rmse" if comparison.task == "regression" else "accuracy"
        silos, released = len(silos_of(comparison)), bool(comparison.privacy)
        svg = plots.convergence(curves, silos, followed, released)
        drawn.append(_plot("Validation by round and method", svg))
    seeds = ", ".join(map(str, comparison.seeds))
    return render(
        title=f"Does joining help? {comparison.model}, {comparison.rounds} rounds",
        answer=_answer(benefit, comparison.chosen_on, len(silos_of(comparison))),
        warnings=comparison.warnings,
        main=_compare_grid(comparison),
        details=_over_local(comparison),
        refitted=_compare_refitted(comparison),
        plots=drawn,
        target=_compare_target(comparison),
        late=_compare_late(comparison),
        notes=[
            *absences_of_runs(comparison),
            f"{TITLES[metric]} on test rows, which each run read once, at the end; mean of seeds {seeds}, "
            "and the ends of its 95 % interval.",
            STATISTICS,
            CHOICE[comparison.chosen_on],
            "Intervals: paired bootstrap over seeds and test rows. They are a silo's own, not corrected for looking "
            "at several silos.",
            "gains: the interval lies above zero; loses: below; unclear: it holds zero, or there is none.",
            f"The worst silo is each method's own. All runs together took {comparison.seconds:.1f} s.",
            _privacy_of_runs(comparison.privacy),
        ],
        experiment=experiment_toml,
        version=comparison.fedtl,
    )


def _answer(benefit: Mapping[str, Benefit], chosen_on: ChosenOn | None, all_silos: int) -> str:
    """How many gain, and by name who does not, as long as they are few; and of how many it cannot be said."""
    if chosen_on is None:
        return "Which method is best for a silo is not said: the rows to choose on are private."
    if not benefit:
        return "Nothing to compare with: it takes local and a method of joining, measured at the same silo."
    by = {verdict: [s for s, its in benefit.items() if its.verdict is verdict] for verdict in plots.VERDICTS}
    gaining, silos = len(by[Verdict.GAINS]), f"silo{'s' * (len(benefit) > 1)}"
    words = [f"{gaining} of {len(benefit)} {silos} gain{'s' * (gaining == 1)} by joining"]
    for verdict, plural in VERBS.items():
        if 0 < len(by[verdict]) <= FEW:
            words.append(f"{', '.join(by[verdict])}: {plural if len(by[verdict]) > 1 else verdict}")
        elif by[verdict]:
            words.append(f"{len(by[verdict])} {plural}")
    if left := all_silos - len(benefit):
        words.append(f"{left} more cannot be compared")
    return "; ".join(words) + "."


def _run_grid(result: RunResult) -> Grid:
    metrics = shown(its.measured for its in result.silos.values())
    head = ["silo", "training rows", "validation rows", "test rows", *(TITLES[m] for m in metrics)]
    rows = [
        _row(name, its.train, its.val, its.test, *(_value(m, its.measured) for m in metrics))
        for name, its in result.silos.items()
    ]
    means, counts, silos = result.mean, result.mean_silos, len(result.silos)
    mean = (one(m, means.get(m)) + over_silos(counts.get(m), silos) for m in metrics)
    rows.append(_row("mean", "", "", "", *mean))
    return Grid("Each silo's own model on its test rows", head, rows, last=1)


def _run_refitted(result: RunResult) -> Grid:
    rows = [
        _row(name, _value(result.metric, its.measured), _value(result.metric, its.refitted))
        for name, its in result.silos.items()
        if its.refitted
    ]
    return _refitted(result.metric, ["silo"], rows)


def _compare_refitted(comparison: Comparison) -> Grid:
    metric, methods = comparison.metric, comparison.methods
    rows = [
        _row(silo, method, _mean(metric, methods[method].get(silo, {})), mean_of(metric, figures))
        for method, its in comparison.refitted.items()
        for silo, figures in its.items()
    ]
    return _refitted(metric, ["silo", "method"], rows)


def _refitted(metric: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Grid:
    caption = f"Test {TITLES[metric]} with the shared statistics of the norms, and with the silo's exact ones instead"
    return Grid(caption, [*head, "as shared", "refitted to the silo's training inputs"], rows)


def _run_target(result: RunResult) -> Grid:
    rows = [
        _row(name, *(_value(result.metric, measured) for measured in (its.target, its.target_adabn)))
        for name, its in result.silos.items()
        if its.target or its.target_adabn
    ]
    return _target(result.metric, ["silo"], rows)


def _run_late(result: RunResult) -> Grid:
    rows = [
        _row(silo, LATE_ROWS[row], _value(result.metric, its))
        for silo, rows in result.late.items()
        for row, its in rows.items()
    ]
    return _late(result.metric, ["silo"], rows)


def _compare_grid(comparison: Comparison) -> Grid:
    metric, methods, benefit = comparison.metric, comparison.methods, comparison.benefit
    rows, empty = [], _row("", "", "") if benefit else []
    for silo in silos_of(comparison):
        its = benefit.get(silo)
        row = [Cell(silo)]
        row += [
            Cell(
                with_interval(metric, figures.get(silo, {}).get(metric)),
                "best" if its and its.best == method else "",
            )
            for method, figures in methods.items()
        ]
        rows.append(row + (_benefit(metric, its) if its else empty))
    silos = len(silos_of(comparison))
    means = (_mean_of_silos(metric, comparison.mean[method].get(metric), silos) for method in methods)
    worst = (_worst(metric, comparison.worst[method], silos) for method in methods)
    rows += [_row("mean", *means) + empty, _row("worst silo", *worst) + empty]
    head = ["silo", *methods, *(["best", "over local", "joining"] if benefit else [])]
    return Grid(f"Test {TITLES[metric]} of each method at each silo", head, rows, last=2)


def _benefit(metric: str, its: Benefit) -> list[Cell]:
    gain = short_difference(metric, its.over_local, its.ci95)
    return [Cell(its.best), Cell(gain), Cell(its.verdict, its.verdict)]


def _over_local(comparison: Comparison) -> Grid:
    """Every method, not only the best, against training alone."""
    metric, over = comparison.metric, comparison.over_local
    rows = [
        _row(silo, *(difference(metric, its[silo].mean, its[silo].ci95) if silo in its else "-" for its in over.values()))
        for silo in silos_of(comparison)
        if any(silo in its for its in over.values())
    ]  # fmt: skip
    return Grid(f"Each method minus local, {TITLES[metric]}, with its 95 % interval", ["silo", *over], rows)


def _compare_target(comparison: Comparison) -> Grid:
    metric = comparison.metric
    rows = [
        _row(silo, method, *(mean_of(metric, rows.get(row)) for row in ("target", "target_adabn")))
        for method, its in comparison.target.items()
        for silo, rows in its.items()
    ]
    return _target(metric, ["silo", "method"], rows)


def _compare_late(comparison: Comparison) -> Grid:
    metric = comparison.metric
    rows = [
        _row(silo, method, LATE_ROWS[row], mean_of(metric, its))
        for method, silos in comparison.late.items()
        for silo, rows in silos.items()
        for row, its in rows.items()
    ]
    return _late(metric, ["silo", "method"], rows)


def _target(metric: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Grid:
    caption = f"Test {TITLES[metric]} on the domain that had no labels in training"
    return Grid(caption, [*head, "as trained", "with AdaBN on that domain"], rows)


def _late(metric: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Grid:
    caption = f"Test {TITLES[metric]} of silos that took no part in training"
    return Grid(caption, [*head, "model", TITLES[metric]], rows)


def _row(*texts: object) -> list[Cell]:
    return [Cell(text) for text in texts]


def _value(metric: str, measured: Measured | None) -> str:
    return one(metric, measured.figures.get(metric) if measured else None)


def _mean(metric: str, figures: Mapping[str, Estimate]) -> str:
    return one(metric, figures[metric].mean if metric in figures else None)


def _mean_of_silos(metric: str, mean: Estimate | None, silos: int) -> str:
    return with_interval(metric, mean) + (over_silos(mean.silos, silos) if mean else "")


def _worst(metric: str, worst: WorstSilo, silos: int) -> str:
    if metric not in worst.figures:
        return "-"
    return f"{one(metric, worst.figures[metric])} ({worst.silo}){over_silos(worst.silos, silos)}"


def _plot(name: str, svg: str) -> Plot:
    return Plot(name, Markup(svg))


def render(template: str = "page.html.j2", **content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("fedtl.report", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
