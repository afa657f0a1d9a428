"""
What the lines of one dataset's ledger come to: its budget, its rows, and what each study takes from the budget.

A study takes its plan's whole epsilon and delta from the budget before its first round, and gives nothing back when it ends
early. Whether a study goes on may depend on what its rounds gave; then what was charged until the end is no bound on what was
learnt. Within a study the schedule is fixed, so the plan's rounds may be composed by privacy loss distributions. Over studies,
whose plans may depend on what came before, the plans' epsilons and deltas are added until the budget is full: basic composition
is a valid filter under full adaptivity (Rogers, Roth, Ullman and Vadhan, 2016: Privacy Odometers and Filters), also for studies
that run side by side (Haney et al., 2023: Concurrent Composition with Adaptive Privacy-Loss Parameters).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.hash_chain import HashChain
from fedtl.privacy.rows import RowSet

ROWS, EVER = "/rows", "/ever"  # bytes kept beside the lines; a study's name has no slash


@dataclass
class StudyAccount:
    """``plan``: as it was written. ``charged``: the epsilon of its rounds so far, at most the plan's."""

    plan: Mapping[str, Any]
    events: list[SpendEvent] = field(default_factory=list)
    round: int = 0  # the last that was charged
    task: str = ""
    reply: str = ""  # the hash of what was kept for it
    charged: float = 0.0

    @property
    def taken(self) -> tuple[float, float]:
        """(epsilon, delta) that the study takes from the budget."""
        return max(self.plan["epsilon"], self.charged), self.plan["delta"]

    @property
    def over(self) -> bool:
        """Whether its plan has no step left."""
        return rows_of(accounting.merged(self.events)) == self.plan["events"]


class Account:
    """Of a chain of lines that are in order."""

    def __init__(self, chain: HashChain) -> None:
        self.chain, self.studies = chain, dict[str, StudyAccount]()
        self.waiting = set[
            str
        ]()  # fingerprints that were met since the last confirmation, and are not confirmed
        self.kept = dict[str, str]()  # the hashes of what is kept of the rows
        for line in chain.lines():
            if line["what"] in ("opened", "budget"):
                self.epsilon, self.delta = line["epsilon"], line["delta"]
            if line["what"] in ("opened", "confirmed"):
                self.fingerprint, self.waiting = line["fingerprint"], set()
                self.kept = line.get("kept", {})
            match line["what"]:
                case "changed":
                    self.waiting.add(line["fingerprint"])
                case "planned":
                    plan = {key: line[key] for key in ("epsilon", "delta", "events")}
                    self.studies[line["study"]] = StudyAccount(plan)
                case "charged":
                    study = self.studies[line["study"]]
                    study.events += [SpendEvent(*row) for row in line["events"]]
                    study.round, study.task, study.reply = line["round"], line["task"], ""
                    study.charged = line["epsilon"]
                case "stored":
                    self.studies[line["study"]].reply = line["reply"]

    @property
    def taken(self) -> tuple[float, float]:
        """(epsilon, delta), all studies together."""
        return accounting.added(study.taken for study in self.studies.values())

    def rows(self, which: str = ROWS) -> RowSet | None:
        """
        The rows that were last confirmed, or with ``EVER`` all that ever were. None where an earlier fedtl wrote the last
        confirmation. Raises LedgerDamaged where they were altered.
        """
        return RowSet.loaded(self.chain.kept(which, self.kept[which])) if self.kept else None

    def keep(self, rows: RowSet) -> dict[str, str]:
        """Put these in place of the rows that were last confirmed; returns what the line has to say as ``kept``."""
        before = self.rows(EVER) if self.kept else None
        ever = rows.union(before) if before and before.key == rows.key else rows
        kept = {ROWS: rows, EVER: ever}
        return {name: self.chain.keep(name, its.dumped()) for name, its in kept.items()}


def rows_of(events: Sequence[SpendEvent]) -> list[list[float]]:
    return [[float(its.noise_multiplier), float(its.sample_rate), int(its.steps)] for its in events]
