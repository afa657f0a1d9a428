"""Tables of the classes that models choose: confusion by silo, and which classes gain."""

from collections.abc import Mapping, Sequence

from fedtl.report.bounds import bounded_gain
from fedtl.report.html import Cell, Grid
from fedtl.report.verdict_tables import verdict_cell
from fedtl.results.comparison import Verdict
from fedtl.results.page_facts import ClassRecall, ComparisonFacts, SiloAnswers

MAX_SILOS = 12  # the most silos whose confusions are shown
SHOWN = (Verdict.GAINS, Verdict.LOSES)  # verdicts in colour: what stays different from zero after correction
CLASSES = (
    "By class: the interval of a gain is for one class alone, as that of a silo (paired, Student's t with the jackknife); colour marks what "
    "stays different from zero after correction for all classes of all silos (Benjamini and Hochberg, 1995)."
)
RECOGNISED = (
    "Recognised: the share of the test rows of a class, with the 95 % interval of Wilson (1927), which takes rows as independent: it is too "
    "narrow where several rows belong to one person."
)
SHADES = 4  # of a cell, by its share of the row


def confusion_grids(answers: Mapping[str, SiloAnswers]) -> list[Grid]:
    """Return a table for each of the first silos: test rows by their class (down) and by the predicted one (across)."""
    return [_confusion(name, own) for name, own in list(answers.items())[:MAX_SILOS]]


def _confusion(name: str, own: SiloAnswers) -> Grid:
    rows: list[Sequence[Cell]] = []
    for label, counts in zip(own.classes, own.confusion, strict=True):
        total = sum(counts)
        shades = [f"shade-{-(-SHADES * count // total)}" if count else "" for count in counts]
        recall = f"{100 * counts[len(rows)] / total:.0f} %" if total else "-"
        if own.recall and (ends := own.recall[len(rows)]):
            recall += f" [{100 * ends[0]:.0f}, {100 * ends[1]:.0f}]"
        cells = [Cell(count, shade) for count, shade in zip(counts, shades, strict=True)]
        rows.append([Cell(label), *cells, Cell(total), Cell(recall)])
    head = ["class", *(f"as {label}" for label in own.classes), "rows", "recognised"]
    return Grid(f"{name}: test rows by their class and by the predicted one", head, rows)


def recall_grid(facts: ComparisonFacts) -> Grid:
    """Return by silo and class how many more test rows are recognised by the silo's best method than by training alone."""
    names = list(dict.fromkeys(name for own in facts.recall.values() for name in own))
    rows: list[Sequence[Cell]] = []
    for silo, own in facts.recall.items():
        cells = [_gain(own[name]) if name in own else Cell("-") for name in names]
        rows.append([Cell(silo), *cells])
    caption = (
        "Test rows of each class that are recognised: alone, then with the silo's best method (%, all seeds), how many rows there are, and the "
        "difference in points with its 95 % interval"
    )
    return Grid(caption, ["silo", *names], rows)


def _gain(own: ClassRecall) -> Cell:
    text = f"{100 * own.alone:.0f} → {100 * own.best:.0f} of {own.rows}"
    if own.gain is None or own.gain.ci95 is None:
        return Cell(text)
    low, high = bounded_gain("accuracy", own.gain.ci95)  # a share of rows, as accuracy is
    css_class = verdict_cell(own.gain.verdict).css_class if own.gain.verdict in SHOWN else ""
    return Cell(f"{text}, {100 * own.gain.mean:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]", css_class)
