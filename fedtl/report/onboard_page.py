"""The page and the table of a silo that was onboarded, from onboard.json. Computes no figure."""

from rich.table import Table
from rich.text import Text

from fedtl._util.counted import counted
from fedtl.report import onboard_plots
from fedtl.report.bounds import bounded
from fedtl.report.figures import format_difference, format_value
from fedtl.report.html import Grid, Section, plot, render, row
from fedtl.report.onboard_figures import METRIC, answer, chosen_note, notes, ordered, warnings
from fedtl.report.tables import put_caption, titled_table
from fedtl.results.onboard import Difference, HeadScore, Interval, OnboardResult, ShotsResult

HEADINGS = ("accuracy (%)", "over nearest prototype", "over own model", "log loss", "held-out (%)")


def onboard_page(result: OnboardResult, experiment_toml: str) -> str:
    """Return the page. ``experiment_toml``: the settings that say where the rows are."""
    curves = Section(
        "Accuracy by labels", plots=[plot("Accuracy by labels a class", onboard_plots.shot_curves(result))]
    )
    shots = [
        Section(f"{counted(part.shots, 'label')} a class", [_rows_note(part)], [_grid(part)])
        for part in result.shots
    ]
    return render(
        "onboard.html.j2",
        title=f"{result.silo}, onboarded to {result.method} on {result.model} ({result.backbone})",
        answer=answer(result),
        warnings=warnings(result),
        sections=[curves, *shots, *_resemblance(result)],
        notes=notes(result),
        experiment=experiment_toml,
        version=result.fedtl,
    )


def onboard_table(result: OnboardResult) -> Table:
    """Return the accuracy of each head by the number of shots, for the terminal."""
    table = titled_table(
        f"{result.silo}, which did not train: test accuracy (%) by labels a class, with 95 % intervals over episodes"
    )
    table.add_column("head", overflow="fold")
    for part in result.shots:
        table.add_column(str(part.shots), justify="right")
    names = dict.fromkeys(name for part in result.shots for name, _ in ordered(part))
    for name in names:
        cells = (_with_interval(dict(ordered(part)).get(name)) for part in result.shots)
        table.add_row(Text(name), *cells)
    put_caption(table, [f"{part.shots}: {chosen_note(part)}" for part in result.shots])
    return table


def _rows_note(part: ShotsResult) -> str:
    return (
        f"{counted(part.episodes, 'episode')} of {counted(part.rows, 'labelled row')}; {chosen_note(part)}."
    )


def _grid(part: ShotsResult) -> Grid:
    rows = [
        row(
            name,
            _with_interval(score),
            _difference(score.over_prototype),
            _difference(score.over_alone),
            f"{score.loss:.3f}",
            format_value(METRIC, score.held_out),
        )
        for name, score in ordered(part)
    ]
    return Grid("Test result of each head, with 95 % intervals over episodes", ["head", *HEADINGS], rows)


def _resemblance(result: OnboardResult) -> list[Section]:
    """Return the section that says which silos are like the new one; none where that was not computed."""
    if not result.resembles:
        return []
    ranked = sorted(result.resembles.items(), key=lambda one: one[1])
    rows = [row(name, f"{distance:.3f}") for name, distance in ranked]
    caption = "Mean distance between prototypes of the same class, in spreads of this silo's features"
    lines = [
        f"Closest: {ranked[0][0]}. A small distance says that the backbone sees the silos' classes alike."
    ]
    return [Section("Which silos resemble it", lines, [Grid(caption, ["silo", "distance"], rows)])]


def _with_interval(score: HeadScore | None) -> str:
    return "-" if score is None else f"{format_value(METRIC, score.mean)}{_ends(score.ci95)}"


def _ends(interval: Interval | None) -> str:
    return f" [{', '.join(f'{100 * end:.1f}' for end in bounded(METRIC, interval))}]" if interval else ""


def _difference(difference: Difference | None) -> str:
    return format_difference(METRIC, difference.mean, difference.ci95) if difference else "-"
