"""What the tables of simulations/transfer say about each family of methods, quoted where the family is explained: a new table there is all that a page needs."""

from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "simulations" / "transfer"
GAIN, MEMBER = "mean gain over local", "minus as a member, interval over silos"
# By family: how the names of its tables begin, the row that is quoted, and what that row is.
FAMILIES = {
    "unlabelled": (("unlabelled-",), "{silo}", "at the silo without labels"),
    "choice": (("choice-",), "{silo}, gain over silobn", "at the silo without labels, minus silobn"),
    "transferability": (("transferability",), "", ""),
    "onboard": (("onboard-",), MEMBER, "with 20 labels a class, less what the silo reaches as a member"),
    "distillation": (("distil", "born-again"), GAIN, "mean gain over training alone"),
    "interpolation": (("interpolation",), GAIN, "mean gain over training alone"),
    "self-supervised": (("selfsup-",), GAIN, "mean gain over training alone"),
    "wrong-labels": (
        ("wrong-labels-cost",),
        "mean of the other 5 silos",
        "to the others, of 40 % wrong labels at one silo of six",
    ),
    "adapters": (("adapters",), GAIN, "mean gain over training alone"),
    "wire": (("wire",), GAIN, "mean gain over training alone"),
}


def transfer(family: str) -> Callable[[], str]:
    """Return what gives the text of a family: a line for each of its tables, or that there is none."""

    def text() -> str:
        begins, row, what = FAMILIES[family]
        pages = [path for path in sorted(FOLDER.glob("*.md")) if path.stem.startswith(begins)]
        if not pages:
            return "Not measured: simulations/transfer has no table of it."
        return "\n".join(
            f"- [{page.stem}](../simulations/transfer/{page.name}): {_said(page, row, what)}"
            for page in pages
        )

    return text


def _said(page: Path, row: str, what: str) -> str:
    lines = page.read_text().splitlines()
    if not row:
        return next(line for line in lines if line.startswith("Share "))
    wanted = row.format(silo=page.stem.removeprefix("unlabelled-").removeprefix("choice-"))
    cells = [_cells(line) for line in lines if line.startswith("|")]
    head, values = cells[0], next(one for one in cells if one[0] == wanted)
    return f"{head[0]}, {what}: {'; '.join(_quoted(head, values))}"


def _quoted(head: list[str], values: list[str]) -> Iterator[str]:
    for name, value in zip(head[1:], values[1:], strict=True):
        if value not in ("", "-"):
            yield f"{name} {value}"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
