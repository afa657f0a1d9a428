"""The tables and lines of ``fedtl data EXP``, from a DataReport."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from fedtl._util.counted import counted
from fedtl.report.tables import titled_table
from fedtl.results.data_report import DataReport, Separation, SiloRows

MAX_LISTED = 6  # the most labels or columns that a line lists


def data_table(report: DataReport) -> Table:
    """One row for each silo: the rows that are used, how their inputs are read, and their labels."""
    table = titled_table("what was read")
    table.add_column("silo", overflow="fold")
    for heading in ("stored", "train", "val", "test"):
        table.add_column(heading, justify="right")
    table.add_column("inputs", overflow="fold")
    table.add_column("labels", overflow="fold")
    for name, silo in report.silos.items():
        counts = (str(count) for count in (silo.stored, silo.train, silo.val, silo.test))
        table.add_row(Text(name), *counts, Text(silo.inputs), Text(label_text(silo)))
    return table


def between_table(report: DataReport) -> Table:
    """One row for each silo: how its inputs and labels differ from those of all others."""
    between = report.between
    table = titled_table("how silos differ", "silo", "inputs: AUC, 0.5 is chance", "labels: distance of 1")
    for name in dict.fromkeys([*between.inputs, *between.labels]):
        labels = between.labels.get(name)
        distance = f"{labels.distance:.2f} (p {labels.p:.2g})" if labels else "-"
        table.add_row(Text(name), _auc(between.inputs.get(name)), distance)
    return table


def _auc(found: Separation | None) -> str:
    return f"{found.auc:.2f} [{found.ci95[0]:.2f}, {found.ci95[1]:.2f}]" if found else "-"


def silo_lines(report: DataReport) -> Iterator[str]:
    """Yield, by silo, a line for each thing that was not read, and for each that a reader may want to look at."""
    for name, silo in report.silos.items():
        for text in (*_not_read(silo), *_to_look_at(silo)):
            yield f"{name}: {text}"
    for pair, count in report.common.items():
        yield f"{pair.replace(', ', ' and ')}: {counted(count, 'training row')} with the same inputs"
    for pair, count in report.near_common.items():
        yield f"{pair.replace(', ', ' and ')}: {counted(count, 'training row')} with nearly the same inputs"


def _not_read(silo: SiloRows) -> Iterator[str]:
    yield from silo.unread
    if silo.kinds:
        yield f"columns that are not numbers: {_listed(silo.kinds)}"
    unused = silo.stored - silo.train - silo.val - silo.test
    if unused > 0:
        yield f"{unused} of {silo.stored} rows are not used (data.limit, or test rows without a label)"
    if silo.without_label:
        yield f"{counted(silo.without_label, 'training or validation row')} without a label that is used"
    if silo.ignored:
        yield f"columns that are not read: {_listed(silo.ignored)}"


def _to_look_at(silo: SiloRows) -> Iterator[str]:
    if silo.units is not None:
        yield f"{silo.units} training units"
    if silo.missing:
        yield f"missing cells: {_counts(silo.missing)}"
    for what, columns in (
        ("columns with one value", silo.constant),
        ("columns that count the rows", silo.counting),
        ("columns of whole numbers with as many values as rows", silo.running),
    ):
        if columns:
            yield f"{what}: {_listed(columns)}"
    if silo.copies:
        pairs = [f"{column} of {other}" for column, other in silo.copies.items()]
        yield f"columns that repeat another one in another unit: {_listed(pairs)}"
    if silo.sentinels:
        yield f"numbers that may stand for a missing value: {_counts(silo.sentinels)}"
    if silo.thousands:
        yield f"fractions that may be thousands: {_counts(silo.thousands)}"
    if silo.decisive:
        yield f"columns that alone nearly determine the label (AUC, rank correlation or share of rows): {_counts(silo.decisive)}"
    if silo.together:
        yield f"columns that together give the label: {_listed(silo.together)}"
    if silo.repeated:
        yield f"{counted(silo.repeated, 'training row')} with the inputs of an earlier one"
    if silo.tested_on_training_rows:
        yield f"{silo.tested_on_training_rows} of {silo.test} test rows have the inputs of a training row"
    if silo.near_leaked:
        yield f"{silo.near_leaked} validation or test rows have nearly the inputs of a training row"


def label_text(silo: SiloRows) -> str:
    """Return the labels with their numbers of rows, or the range of the values."""
    if silo.values:
        return f"{silo.values['low']:.6g} to {silo.values['high']:.6g}"
    # With a colon, since a label is often a number: "0: 29, 1: 22".
    return _listed([f"{label}: {rows:.6g}" for label, rows in silo.labels.items()]) or "not used"


def _counts(values: Mapping[str, float]) -> str:
    return _listed([f"{key} {value:.6g}" for key, value in values.items()])


def _listed(texts: Sequence[str]) -> str:
    rest = len(texts) - MAX_LISTED
    return ", ".join([*texts[:MAX_LISTED], *([f"{rest} more"] if rest > 0 else [])])
