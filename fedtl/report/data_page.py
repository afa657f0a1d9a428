"""The HTML page of ``fedtl data EXP --out DIR`` and of an institution's own rows, from a DataReport. Computes no figure."""

from collections.abc import Iterator, Sequence

from fedtl._util.counted import counted
from fedtl.report import data_plots
from fedtl.report.data_tables import label_text, silo_lines
from fedtl.report.html import Grid, Plot, plot, render, row
from fedtl.results.data_report import BetweenSilos, DataReport

NOTES = (
    "Recommendations are rules of thumb for a person. No run reads them, and none follows from the labels of test rows.",
    "Rows are compared by hashes with a random key, which exist in memory only. Two rows are copies if all their inputs are equal.",
)
NOTES_BETWEEN = (
    "AUC: a random forest is trained to name the silo of a training row, and judged on rows that it was not trained on, in two halves "
    "(a classifier two-sample test; Lopez-Paz and Oquab, 2017). Equal rows, and the rows of one unit, are in the same half. 0.5: silos "
    "look alike. 1: each row shows its silo, for example by a unit, by missing cells, or by the colours of its images.",
    "Intervals of the AUC: 95 % (Newcombe, 2006) for half of the rows, because both halves depend on each other; not corrected for the number of silos. They are too narrow where several rows belong to "
    "one unit.",
    "The distance of labels is the total variation between a silo's shares and those of all others, with the p-value of Pearson's "
    "chi-squared test; in regression Kolmogorov and Smirnov's. 0: the same shares. 1: no label in common.",
)


def data_page(
    report: DataReport, version: str, settings: str, settings_title: str, sharing: Sequence[str] = ()
) -> str:
    """Return the page. ``settings``: what the rows were read by; ``sharing``: at an institution, what leaves it."""
    between, lines = report.between, list(silo_lines(report))
    notes = [*NOTES, *(NOTES_BETWEEN if len(report.silos) > 1 else ())]
    if between.sampled:
        notes.append(
            f"The classifier and the means of inputs use at most {between.sampled} training rows of each silo, drawn by the seed."
        )
    if between.too_few:
        notes.append(f"Too few different rows for the classifier: {', '.join(between.too_few)}.")
    return render(
        "data.html.j2",
        title="What the rows hold",
        answer=answer(report),
        sharing=sharing,
        warnings=report.notes,
        recommendations=report.recommendations,
        main=rows_grid(report),
        lines=lines,
        lines_title=f"What was not read, and what to look at: {counted(len(lines), 'line')}",
        plots=list(_plots(report)),
        grids=list(_grids(between)),
        notes=notes,
        settings=settings,
        settings_title=settings_title,
        version=version,
    )


def answer(report: DataReport) -> str:
    """Return what the page says in one or two sentences."""
    rows, between = sum(silo.train for silo in report.silos.values()), report.between
    text = f"{counted(len(report.silos), 'silo')} with {rows:,} training rows"
    if between.inputs:
        far = max(between.inputs, key=lambda name: between.inputs[name].auc)
        text += f"; the inputs of {far} differ most from the others (AUC {between.inputs[far].auc:.2f}, 0.5 is chance)"
    if between.labels:
        far = max(between.labels, key=lambda name: between.labels[name].distance)
        text += f"; labels differ most at {far} (distance {between.labels[far].distance:.2f} of 1)"
    return f"{text}. {counted(len(report.recommendations), 'recommendation')}."


def rows_grid(report: DataReport) -> Grid:
    """Return the table of all silos."""
    units = any(silo.units is not None for silo in report.silos.values())
    head = [
        "silo",
        "stored",
        "train",
        "val",
        "test",
        *(["units"] if units else []),
        "missing cells",
        "inputs",
        "labels",
    ]
    rows = [
        row(
            name,
            *(f"{count:,}" for count in (silo.stored, silo.train, silo.val, silo.test)),
            *([silo.units if silo.units is not None else "-"] if units else []),
            f"{sum(silo.missing.values()):,}",
            silo.inputs,
            label_text(silo),
        )
        for name, silo in report.silos.items()
    ]
    return Grid("Rows by silo", head, rows)


def _plots(report: DataReport) -> Iterator[Plot]:
    between = report.between
    if any(silo.trained for silo in report.silos.values()):
        yield plot(
            "Labels of training rows by silo; the numbers are in the table above",
            data_plots.label_bars(report),
        )
    if any(silo.values for silo in report.silos.values()):
        yield plot("Range, mean and deviation of the target by silo", data_plots.value_ranges(report))
    if between.inputs:
        text = (
            "How well a classifier tells each silo's inputs from the others; the numbers are in a table below"
        )
        yield plot(text, data_plots.separation_dots(between.inputs))
    if len(between.pairs) > 1:
        yield plot(
            "How well a classifier tells two silos apart; the numbers are in a table below",
            data_plots.pair_matrix(between.pairs),
        )
    if any(between.differences.values()):
        text = "Means of inputs by silo, in standard deviations; the largest are in a table below"
        yield plot(text, data_plots.difference_map(between.differences))


def _grids(between: BetweenSilos) -> Iterator[Grid]:
    if between.inputs or between.labels:
        names = list(dict.fromkeys([*between.inputs, *between.labels]))
        rows = []
        for name in names:
            inputs, labels = between.inputs.get(name), between.labels.get(name)
            auc = (
                (f"{inputs.auc:.3f}", f"{inputs.ci95[0]:.3f} to {inputs.ci95[1]:.3f}", inputs.rows)
                if inputs
                else ("-", "-", "-")
            )
            rows.append(
                row(name, *auc, *((f"{labels.distance:.3f}", f"{labels.p:.2g}") if labels else ("-", "-")))
            )
        head = ["silo", "AUC of inputs", "95 % interval", "rows", "distance of labels", "p"]
        yield Grid("Each silo against all others", head, rows)
    if between.pairs:
        pairs = [
            row(
                pair.replace(", ", " and "),
                f"{one.auc:.3f}",
                f"{one.ci95[0]:.3f} to {one.ci95[1]:.3f}",
                one.rows,
            )
            for pair, one in between.pairs.items()
        ]
        yield Grid("Each two silos", ["silos", "AUC of inputs", "95 % interval", "rows"], pairs)
    largest = [
        row(name, feature, f"{own[feature]:+.2f}")
        for name, own in between.differences.items()
        for feature in sorted(own, key=lambda key: -abs(own[key]))[:3]
    ]
    if largest:
        yield Grid(
            "The three means of inputs that differ most, by silo",
            ["silo", "feature", "standard deviations"],
            largest,
        )
