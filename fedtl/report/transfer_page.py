"""The HTML page of ``fedtl transferability``, from its transferability.json and experiment.toml. Computes no figure."""

import math
from collections.abc import Sequence

from fedtl._util.counted import counted
from fedtl.report import transfer_plots
from fedtl.report.figures import TITLES, difference_unit, format_difference, format_value
from fedtl.report.html import Cell, Grid, plot, render, row
from fedtl.results.transferability import Begin, Point, Spread, Transferability

MEANINGS = {
    Begin.OWN: "its own model, from the first weights of a run",
    Begin.NEW: "from scratch: all weights new and random",
    Begin.HELD: "pretrained body frozen, head trained",
}
LEFT_OUT = "A is the model of the other silos, trained together without this one (leave one silo out); B is the silo's own. "
DEPLOYED = (
    "A is the model that all sites trained together, this site included, as it was before the last round; B is the site's own. So A suits the "
    "site better than a model of the others alone would: fedtl transferability on simulated silos leaves each out. "
)
JUDGED_AT_SITES = (
    "Validation rows of each site chose the cut and give the results that are shown, which flatters the chosen cut a little; no test row was read. Each number was computed "
    "at its site, rounded to three digits, and set to its limit where it was beyond one."
)
NOTES = (
    "AnB: the first n stages of A are frozen and the rest is trained anew at the silo; AnB+: nothing is frozen; BnB and BnB+: the same with the silo's own first "
    "stages (Yosinski et al., 2014). BnB below zero: stages that were trained together depend on each other. AnB below BnB: the "
    "stage is specific to the silos. AnB+ above zero: the others' stages are a better start than random weights.",
    "The rest is new: random weights of another seed, the same as in training from scratch, so that both differ in the first "
    "stages alone. Its own model begins with the first weights of a run: random ones too, or pretrained ones. Each training takes the number of epochs that a silo trains in a run, and each "
    "model has the exact normalisation statistics of the silo's training inputs, also in frozen stages.",
    "The cut was chosen by AnB+ on validation rows: the smallest number of stages whose loss is within one standard error, over silos, of "
    "the lowest, so that no more leaves than helps. Test rows chose nothing.",
    "Intervals: Student's t, 95 %, over silos, each the mean of its seeds; they say how silos differ, not only how runs do. "
    "They are not corrected for the number of curves.",
    "CKA: linear centred kernel alignment (Kornblith et al., 2019) of a stage's output on the silo's own training rows, at the silo, "
    "which holds the shared model and its own: only numbers from 0 to 1 leave it. Its upper reference is that of two models "
    "of the same silo from different random weights.",
    "LogME (You et al., 2021): log evidence a row of the silo's labels under a linear model on the stage's output of A; H-score (Bao et al., "
    "2019): how far the output tells classes apart. Not measured with fewer rows than channels, and too high with few more. Higher is better; compare them within a silo, stage with stage.",
)


def transfer_page(result: Transferability, experiment_toml: str) -> str:
    """Return the page."""
    plots = [
        plot("Gain over training from scratch by stages taken over", transfer_plots.transfer_curves(result)),
        plot("Similarity of models by stage", transfer_plots.similarity_curves(result)),
    ]
    return render(
        "transferability.html.j2",
        title=f"What transfers between {counted(len(result.silos), 'silo')}? {result.method} on {result.model}, "
        f"{counted(result.rounds, 'round')}",
        answer=answer(result),
        warnings=result.warnings,
        main=points_grid("All silos", result, result.points),
        measures=_measures_grid(result),
        plots=plots,
        silos=[points_grid(name, result, points) for name, points in result.by_silo.items()],
        fragment=result.cut.fragment,
        notes=_notes(result.deployed),
        experiment=experiment_toml,
        version=result.fedtl,
    )


def _notes(deployed: bool) -> list[str]:
    first, *others = NOTES
    if not deployed:
        return [LEFT_OUT + first, *others]
    return [DEPLOYED + first, JUDGED_AT_SITES, *others]


def _judged(result: Transferability) -> str:
    """Return the name of the main metric with the rows that it was measured on."""
    return f"{'validation' if result.deployed else 'test'} {TITLES[result.metric]}"


def answer(result: Transferability) -> str:
    """Return the recommendation and its evidence in two sentences."""
    count, of, metric = result.cut.stages, len(result.stages), result.metric
    if not count:
        return "Share nothing: no number of the others' stages lowers the loss on validation rows of these silos."
    point = next(one for one in result.points if (one.begin, one.stages) == (Begin.A_TUNED, count))
    how = f"all {of}" if count == of else "the first" if count == 1 else f"the first {count}"
    text = f"Share {how} of {of} stages of the body."
    if point.gain is None or point.score is None:
        return text
    gain = format_difference(metric, point.gain.mean, point.gain.ci95)
    return (
        f"{text} With {'it' if count == 1 else 'them'} and fine-tuning, {_judged(result)} is {format_value(metric, point.score.mean)}, "
        f"{gain} {difference_unit(metric)} over training from scratch at a silo ({counted(point.gain.silos, 'silo')})."
    )


def points_grid(caption: str, result: Transferability, points: Sequence[Point]) -> Grid:
    """Return the table of all ways to begin."""
    head = [
        "training",
        _judged(result),
        "over training from scratch",
        "validation loss, less from scratch",
    ]
    rows = [
        [
            Cell(name_of(one)),
            Cell(format_value(result.metric, None if one.score is None else one.score.mean)),
            Cell("-" if one.begin is Begin.NEW else _gain(result.metric, one.gain), _class(one)),
            Cell("-" if one.begin is Begin.NEW else _gain("loss", one.loss)),
        ]
        for one in points
    ]
    return Grid(caption, head, rows)


def name_of(point: Point) -> str:
    """Return what a training is called: A2B+ for the first two stages of A, and so on."""
    return MEANINGS.get(point.begin) or point.begin.replace("n", str(point.stages))


def _gain(metric: str, gain: Spread | None) -> str:
    return "-" if gain is None else format_difference(metric, gain.mean, gain.ci95)


def _class(point: Point) -> str:
    if point.gain is None or point.gain.ci95 is None or point.begin is Begin.NEW:
        return ""
    low, high = point.gain.ci95
    return "gains" if low > 0 else "loses" if high < 0 else ""


def _measures_grid(result: Transferability) -> Grid:
    head = ["stage", "CKA, others' and own", "CKA, two of its own", "LogME", "H-score"]
    rows = [
        row(
            f"{number}: {name or 'body'}",
            *(_measure(one, 0.0, 1.0) for one in (stage.cka, stage.cka_new)),
            _measure(stage.logme),
            _measure(stage.h_score, 0.0),
        )
        for number, (name, stage) in enumerate(zip(result.stages, result.measures, strict=True), 1)
    ]
    return Grid("Stage by stage, on each silo's own training rows", head, rows)


def _measure(value: Spread | None, low: float = -math.inf, high: float = math.inf) -> str:
    """Return the mean and its interval, of which only the part between ``low`` and ``high`` can be."""
    if value is None:
        return "-"
    ends = f" [{max(value.ci95[0], low):.2f}, {min(value.ci95[1], high):.2f}]" if value.ci95 else ""
    return f"{value.mean:.2f}{ends}"
