"""Does joining help on each of the sets? The page README.md of this folder, from the committed numbers."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import gain_bars
import schedules
from committed import DEFAULT, ENSEMBLE, Table
from tables import ROWS

from fedtl.report.figures import TITLES
from fedtl.results.comparison import Overall

HERE = Path(__file__).parent

OVERVIEW = (
    "# Does joining help? All sets",
    "",
    "Mean over silos, and its difference from training alone with the 95 % interval. `local ensemble`: two models trained alone, "
    "averaged; what it gains is no gain of joining. `fedtl` is the default. Every method is tuned at home and averaged with the silo's "
    "own model alike. A page a set has all its methods.",
    "",
    "These are not results on unseen sets. The rule of the mix (three were compared) was chosen by test results on heart-disease, school, "
    "digits and digits6, and rounds, rate and net of digits6, spoken-digits and pneumonia after trial runs whose test results were seen. That "
    "heads of three and more classes are a simplex was chosen by test results on digits, digits6-340 and spoken-digits, the last with seeds 0 to 4. "
    "The gains of the default may be too high by this.",
    "",
    'Tables marked "trained heads" are of an earlier default, whose rounds trained the heads on these sets too.',
    "",
    "| set | seeds | metric | local | local ensemble | fedavg | fedtl | silos where fedtl is not below local | worst silo |",
    "|---" * 9 + "|",
)


def overview() -> str:
    """Return a page with one line for each set whose numbers are here."""
    lines = [*OVERVIEW, *_rows(HERE, "*.json", _of_set)]
    return "\n".join(
        [*lines, "", *ten_seeds(), "", *gain_bars.section(), "", *heads(), "", *schedules.section(), ""]
    )


def _of_set(file: Path) -> list[str]:
    one = _read(file)
    overall = one.overall
    gains = [one.gain(overall[name]) if name in overall else "" for name in (ENSEMBLE, "fedavg", DEFAULT)]
    default = overall.get(DEFAULT)
    counts = (
        ["", ""]
        if default is None
        else [f"{default.not_worse} of {default.silos}", ROWS["worst silo"](one.metric, default)]
    )
    return [one.link, str(one.seeds), TITLES[one.metric], one.local, *gains, *counts]


def _read(file: Path, folder: str = "") -> Table:
    """Return the committed comparison of a file; ``folder``: where it is, seen from this page."""
    return Table(f"{folder}{file.stem}", json.loads(file.read_text()))


TEN_SEEDS_TABLE = (
    "## Ten seeds",
    "",
    "With three seeds an interval has two degrees of freedom and is wide. Here three methods are trained for ten seeds; what "
    "two averaged models of one silo gain without joining stands in the table above (`local ensemble`). `not below beyond the noise`: silos "
    "whose interval does not lie below 0.",
    "",
    "| set | metric | local | fedavg | fedtl | silos where fedtl is not below local | not below beyond the noise | worst silo |",
    "|---" * 8 + "|",
)


def _rows(folder: Path, pattern: str, cells: Callable[[Path], Iterable[str]]) -> Iterator[str]:
    """Yield a line of a table for each comparison of a folder; ``cells`` returns its cells."""
    for file in sorted(folder.glob(pattern)):
        yield "| " + " | ".join(cells(file)) + " |"


def ten_seeds() -> Iterator[str]:
    """Yield the table of all sets that were compared for ten seeds, and what it says of the default."""
    defaults: list[Overall] = []

    def cells(file: Path) -> list[str]:
        one = _read(file, "ten-seeds/")
        default = one.overall[DEFAULT]
        defaults.append(default)
        gains = [one.gain(one.overall[name]) for name in ("fedavg", DEFAULT)]
        counts = (default.not_worse, default.loss_not_shown)
        of_silos = [f"{count} of {default.silos}" for count in counts]
        first = [f"[{file.stem}]({one.path}.md){one.note}", TITLES[one.metric], one.local]
        return [*first, *gains, *of_silos, ROWS["worst silo"](one.metric, default)]

    yield from TEN_SEEDS_TABLE
    yield from _rows(HERE / "ten-seeds", "*.json", cells)
    silos, held = sum(one.silos for one in defaults), sum(one.loss_not_shown for one in defaults)
    yield ""
    yield (
        f"The mean gain of `{DEFAULT}` excludes 0 from below on {sum(one.mean.ci95[0] > 0 for one in defaults)} of "
        f"{len(defaults)} sets and from above on {sum(one.mean.ci95[1] < 0 for one in defaults)}; {held} of {silos} silos are not "
        f"below local beyond the noise."
    )


HEADS = ("trained", "fixed", "simplex")  # as the tables transfer/HEAD-head-NAME have them
HEADS_TEXT = (
    "## Heads in the rounds",
    "",
    'What the rounds do with the head of a silo, `method.head` of `fedtl`. "trained": it is trained with the body. "fixed": it keeps its '
    'initial weights, which are equal at all silos, until the silo tunes its model. "simplex": it is fixed too, but starts with classes that '
    "are equally far from each other and with longer weights. The default is a simplex where all silos have the same three or more classes, and "
    "trained on other sets, so one column repeats what the default is. Mean gain over local; pages name the commits of the columns, and between commits the "
    "numbers of local moved a little, so a difference of half a point says nothing there:",
    "",
    f"| set | metric | fedtl | {' | '.join(HEADS)} |",
    "|---" * (3 + len(HEADS)) + "|",
)


def heads() -> Iterator[str]:
    """Yield the table of heads, for each set where one was measured with the seeds of results/NAME."""
    transfer = HERE.parent / "transfer"
    yield from HEADS_TEXT
    for base in sorted(HERE.glob("*.json")):
        others = [transfer / f"{head}-head-{base.name}" for head in HEADS]
        if any(file.exists() for file in others):
            ours = [_read(base), *(_read(file, "../transfer/") if file.exists() else None for file in others)]
            gains = [
                "" if one is None else f"[{one.gain(one.overall[DEFAULT])}]({one.path}.md)" for one in ours
            ]
            yield f"| {base.stem} | {TITLES[_read(base).metric]} | {' | '.join(gains)} |"
