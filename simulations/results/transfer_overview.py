"""What came of each experiment of the folder transfer? The page README.md there, from the committed numbers."""

import json
import re
from itertools import takewhile
from pathlib import Path

from committed import Table

from fedtl.report.figures import TITLES

FOLDER = Path(__file__).parents[1] / "transfer"

TRANSFER = (
    "# What transfers between silos? All measured experiments",
    "",
    "Mean gain over training alone, with the 95 % interval; every method is tuned at home and averaged with the silo's own model alike. "
    "Gains of silos without labels, whose yardstick is `silobn`, and figures of a second domain stand on the experiment's page. How the "
    "criterion was found that chooses a method for such a silo is on [a page of its own](criterion-without-labels.md).",
    "",
    "| experiment | question | seeds | metric | mean gain over local |",
    "|---" * 5 + "|",
)

CHOSEN = "gain of what is taken over silobn"
MEMBER = "minus as a member, interval over silos"
OTHER_MEASURES = (
    "## Other measures",
    "",
    "| experiment | question | what came of it |",
    "|---" * 3 + "|",
)


def transfer_overview() -> str:
    """Return a page with one line for each measured experiment of the folder transfer."""
    lines, others = list(TRANSFER), list(OTHER_MEASURES)
    for file in sorted(FOLDER.glob("*.json")):
        found = Table(file.stem, json.loads(file.read_text()))
        what = [found.link, _question(file.with_suffix(".toml"))]
        if not found.numbers.get("overall"):
            others.append("| " + " | ".join([*what, _said(file.with_suffix(".md"))]) + " |")
            continue
        gains = [f"{name} {found.gain(one)}" for name, one in found.overall.items()]
        cells = [*what, str(found.seeds), TITLES[found.metric]]
        lines.append("| " + " | ".join([*cells, "; ".join(gains)]) + " |")
    return "\n".join([*lines, "", *others, ""])


def _said(page: Path) -> str:
    """
    Return what a page of another measure says in its one line that begins so: the stages to share, what a silo without labels gains
    by the method that it takes, how far each way to a model of a new silo lies below the silo as a member, or what wrong labels cost.
    """
    lines = page.read_text().splitlines()
    if taken := [line for line in lines if CHOSEN in line]:
        return " ".join(f"{_cells(line)[0]}: {_cells(line)[1]}." for line in taken)
    if advice := next((line for line in lines if line.startswith("Share ")), None):
        return advice
    begins = ("| cost in points", "| mean of the other ")
    what = "Points of accuracy that they cost, mean of the other silos"
    if not any(line.startswith(begins[0]) for line in lines):
        begins, what = ("| accuracy", f"| {MEMBER} "), f"Accuracy with 20 labels a class {MEMBER}"
    titles, row = (next(line for line in lines if line.startswith(begin)) for begin in begins)
    cells = [_cells(titles), _cells(row)]
    found = [f"{name} {value}" for name, value in zip(cells[0][1:], cells[1][1:], strict=True) if value]
    older = next(
        (f" {line}" for line in lines if line.startswith("The last two columns were measured before")), ""
    )
    return f"{what}: {'; '.join(found)}.{older}"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _question(experiment: Path) -> str:
    """Return the first sentence of the comment at the top of an experiment; of a page of two experiments, its title."""
    if not experiment.is_file():
        return experiment.with_suffix(".md").read_text().splitlines()[0].removeprefix("# ")
    comment = takewhile(lambda line: line.startswith("#"), experiment.read_text().splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return re.split(r"(?<=[?.]) ", text, maxsplit=1)[0]
