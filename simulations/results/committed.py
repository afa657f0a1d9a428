"""What do the committed numbers of one comparison say?"""

from dataclasses import dataclass
from typing import Any

from fedtl._util.records import from_plain
from fedtl.report.figures import format_difference, format_with_interval
from fedtl.results.comparison import Estimate, Overall

LOCAL, ENSEMBLE, DEFAULT = "local", "local ensemble", "fedtl"
TRAINED_HEADS = (
    "digits6-340",
    "spoken-digits",
)  # their fedtl is not measured anew yet


@dataclass(frozen=True)
class Table:
    """One committed comparison: ``path``, without its ending, as links have it, and what its JSON has."""

    path: str
    numbers: dict[str, Any]

    @property
    def link(self) -> str:
        return f"[{self.path}]({self.path}.md){self.note}"

    @property
    def note(self) -> str:
        """What tells a table apart whose rounds trained the heads of fedtl, which they do no more on this set."""
        return " (trained heads)" if self.path in TRAINED_HEADS else ""

    @property
    def seeds(self) -> int:
        return len(self.numbers["seeds"])

    @property
    def metric(self) -> str:
        return str(self.numbers["metric"])

    @property
    def overall(self) -> dict[str, Overall]:
        return {name: from_plain(Overall, one) for name, one in self.numbers["overall"].items()}

    def mean(self, method: str) -> float:
        return float(self.numbers["mean"][method]["mean"])

    def gain(self, one: Overall) -> str:
        return format_difference(self.metric, one.mean.mean, one.mean.ci95)

    @property
    def local(self) -> str:
        """The mean of training alone with its interval."""
        return format_with_interval(self.metric, from_plain(Estimate, self.numbers["mean"][LOCAL]))
