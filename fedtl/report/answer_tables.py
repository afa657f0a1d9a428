"""Tables of the classes that models choose: confusion by silo, and which classes gain."""

from collections.abc import Mapping, Sequence

from fedtl.report.html import Cell, Grid
from fedtl.results.page_facts import ComparisonFacts, SiloAnswers

MAX_SILOS = 12  # whose confusions are shown
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
        cells = [Cell(count, shade) for count, shade in zip(counts, shades, strict=True)]
        rows.append([Cell(label), *cells, Cell(total), Cell(recall)])
    head = ["class", *(f"as {label}" for label in own.classes), "rows", "recognised"]
    return Grid(f"{name}: test rows by their class and by the predicted one", head, rows)


def recall_grid(facts: ComparisonFacts) -> Grid:
    """Return by silo and class how many more test rows are recognised by the silo's best method than by training alone."""
    names = list(dict.fromkeys(name for own in facts.recall.values() for name in own))
    rows: list[Sequence[Cell]] = []
    for silo, own in facts.recall.items():
        cells = [
            Cell("-") if name not in own else _gain(own[name].alone, own[name].best, own[name].rows)
            for name in names
        ]
        rows.append([Cell(silo), *cells])
    caption = "Test rows of each class that are recognised: alone, then with the silo's best method (%, all seeds), and how many rows there are"
    return Grid(caption, ["silo", *names], rows)


def _gain(alone: float, best: float, rows: int) -> Cell:
    return Cell(f"{100 * alone:.0f} → {100 * best:.0f} of {rows}")
