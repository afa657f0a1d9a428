"""Which schedule of the learning rate gives better models? A table of the page of all sets, from the committed numbers."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from committed import Table

from fedtl.experiment.episodes import interval
from fedtl.report.figures import TITLES, format_difference, format_value

HERE = Path(__file__).parent
METHODS = ("local", "fedavg", "fedtl")
SECTION = (
    "## A learning rate that falls over the rounds",
    "",
    "By default the rate is constant in the rounds and falls in the tuning at home (cosine). Here it falls over the rounds too (`train.schedule = "
    '"cosine"`), for all methods and for training alone. Mean over silos and seeds; the difference is of the same seeds, with its 95 % interval '
    "over them. The two columns were measured by different commits, which their pages name.",
    "",
    "| set | seeds | metric | method | constant | cosine | cosine minus constant |",
    "|---" * 7 + "|",
)


def section() -> Iterator[str]:
    """Yield the table of both schedules for each set where both were measured with the same seeds, and what it says."""
    differences = []
    yield from SECTION
    for file in sorted((HERE.parent / "transfer").glob("schedule-*.json")):
        name = file.stem.removeprefix("schedule-")
        cosine, constant = _read(f"../transfer/{file.stem}"), _read(f"ten-seeds/{name}")
        for method in METHODS:
            gains = [
                one - other
                for one, other in zip(_seeds(cosine, method), _seeds(constant, method), strict=True)
            ]
            bounds, mean = interval(gains), sum(gains) / len(gains)
            differences.append(bounds)
            both = [
                f"[{format_value(one.metric, one.mean(method))}]({one.path}.md)" for one in (constant, cosine)
            ]
            first = [name, str(cosine.seeds), TITLES[cosine.metric], method]
            yield "| " + " | ".join([*first, *both, format_difference(cosine.metric, mean, bounds)]) + " |"
    known = [one for one in differences if one]
    yield ""
    yield f"Of {len(known)} intervals {sum(low > 0 for low, _ in known)} lie above 0 and {sum(high < 0 for _, high in known)} below."


def _read(path: str) -> Table:
    return Table(path, json.loads((HERE / f"{path}.json").read_text()))


def _seeds(table: Table, method: str) -> list[float]:
    """Return the mean over silos of each seed."""
    found: Mapping[str, Any] = table.numbers["mean"][method]
    return list(found["seeds"])
