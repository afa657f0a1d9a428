"""
What a ledger's lines say of themselves, recomputed by whoever gets them: the chain, each epsilon from the events before it,
each plan as it was kept, all plans together against the lifetime budget, and whether what left was paid for. Reads lines alone, not the book, so that
a mistake in the book's own reading hides none in its writing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.hash_chain import GENESIS

CLOSE = 1e-6  # relative, of two epsilons from the same events
Line = Mapping[str, Any]


def walked(entries: Iterable[tuple[str, str]]) -> tuple[list[dict[str, Any]], str, int]:
    """
    The lines of a chain, from their texts and hashes, as far as it holds; its last hash; and the number of the first line
    that does not follow from the one before, 0 for none.
    """
    last, lines = GENESIS, list[dict[str, Any]]()
    for number, (text, digest) in enumerate(entries, 1):
        if sha256(f"{last}{text}".encode()).hexdigest() != digest or (line := _line(text, number)) is None:
            return lines, last, number
        last = digest
        lines.append(line)
    return lines, last, 0


def _line(text: str, number: int) -> dict[str, Any] | None:
    """Whoever wrote the chain may have written anything under a hash that is right."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.get("number") == number else None


@dataclass(frozen=True)
class StudyCost:
    """
    What a study takes from the budget: its plan's ``epsilon`` and ``delta``, whole, from its first round on. ``charged``:
    what its rounds up to ``round`` come to. ``planned``: the events of its plan.
    """

    epsilon: float
    delta: float
    charged: float
    round: int
    planned: tuple[SpendEvent, ...]


def studies(lines: Iterable[Line]) -> dict[str, StudyCost]:
    """Every study that a ledger has planned, as its lines say; a study beyond its plan costs what was charged."""
    found: dict[str, StudyCost] = {}
    for line in lines:
        if line["what"] == "planned":
            found[line["study"]] = StudyCost(line["epsilon"], line["delta"], 0.0, 0, tuple(_events(line)))
        elif line["what"] == "charged" and line["study"] in found:
            its = found[line["study"]]
            most = max(its.epsilon, line["epsilon"])
            found[line["study"]] = replace(its, epsilon=most, charged=line["epsilon"], round=line["round"])
    return found


def _events(line: Line) -> list[SpendEvent]:
    return [SpendEvent(noise, rate, int(steps)) for noise, rate, steps in line["events"]]


def faults(lines: Iterable[Line]) -> list[str]:
    """In words, with the line's number; none: the arithmetic holds and no limit was passed."""
    found: list[str] = []
    books = _Books()
    for line in lines:
        where = f"ledger line {line['number']}"
        match line["what"]:
            case "changed" if line["before"] != books.rows:
                found.append(
                    f"{where}: rows {line['before'][:12]} changed, and the last that were confirmed are {books.rows[:12]}"
                )
            case "planned":
                found += [f"{where}: {fault}" for fault in books.planned(line)]
            case "charged":
                found += [f"{where}: {fault}" for fault in books.charged(line)]
        if line["what"] in ("opened", "confirmed"):
            books.rows = line["fingerprint"]
        if line["what"] in ("opened", "budget"):
            books.limit = line["epsilon"], line["delta"]
    return found


class _Books:
    """The sums while a ledger's lines are read."""

    def __init__(self) -> None:
        self.limit, self.rows = (0.0, 0.0), ""
        self.plans, self.events = dict[str, Line](), dict[str, list[SpendEvent]]()
        self.taken = dict[str, tuple[float, float]]()

    def planned(self, line: Line) -> list[str]:
        study, events = line["study"], _events(line)
        found = [f"study {study!r} was planned before"] if study in self.plans else []
        self.plans[study], self.events[study] = line, []
        cost = accounting.epsilon(events, line["delta"])
        self.taken[study] = max(cost, line["epsilon"]), line["delta"]
        if cost > line["epsilon"] * (1 + CLOSE):
            found.append(f"the plan says epsilon {line['epsilon']:.4g}, and its events come to {cost:.4g}")
        return found + self._beyond()

    def charged(self, line: Line) -> list[str]:
        study, plan, found = line["study"], self.plans.get(line["study"]), list[str]()
        if plan is None:
            return [f"study {study!r} was charged and never planned"]
        self.events[study] += _events(line)
        cost = accounting.epsilon(self.events[study], plan["delta"])
        if abs(line["epsilon"] - cost) > CLOSE * cost:
            found.append(f"epsilon {line['epsilon']:.4g}, and its events come to {cost:.4g}")
        if cost > plan["epsilon"] * (1 + CLOSE):
            found.append(f"epsilon {cost:.4g} is beyond the plan's {plan['epsilon']:.4g}")
        if not _within(self.events[study], _events(plan)):
            found.append("its steps are more than the plan has, or of another noise or rate")
        self.taken[study] = max(cost, self.taken[study][0]), plan["delta"]
        return found + self._beyond()

    def _beyond(self) -> list[str]:
        epsilon, delta = accounting.added(self.taken.values())
        if epsilon <= self.limit[0] * (1 + CLOSE) and delta <= self.limit[1] * (1 + CLOSE):
            return []
        return [
            f"all plans together take epsilon {epsilon:.4g} and delta {delta:.3g}, which is beyond the lifetime budget of "
            f"{self.limit[0]:.4g} and {self.limit[1]:.3g} (a study takes its whole plan, also if it ended early)"
        ]


def _within(events: Sequence[SpendEvent], plan: Sequence[SpendEvent]) -> bool:
    most = {(its.noise_multiplier, its.sample_rate): its.steps for its in accounting.merged(plan)}
    done = accounting.merged(events)
    return all(its.steps <= most.get((its.noise_multiplier, its.sample_rate), 0) for its in done)


def waiting(lines: Iterable[Line]) -> str:
    """The fingerprint of changed rows, the last that were met, which nobody has confirmed; "" for none."""
    last = ""
    for line in lines:
        if line["what"] in ("changed", "confirmed"):
            last = line["fingerprint"] if line["what"] == "changed" else ""
    return last


def unpaid(sent: Iterable[Line], ledgers: Mapping[str, Sequence[Line]]) -> list[str]:
    """
    Private messages that left and that no charge of the same task stands for, a line each. ``sent``: lines of an egress
    record; ``ledgers``: each dataset's lines. A message names its dataset, but for those that an earlier fedtl sent.
    """
    paid = {name: _tasks(lines) for name, lines in ledgers.items()}
    found = []
    for line in sent:
        key = line["study"], line["round"]
        books = [tasks for name, tasks in paid.items() if line.get("dataset", name) == name]
        if line["private"] and not any(line["task"] in tasks.get(key, ()) for tasks in books):
            known = any(key in tasks for tasks in books)
            how = "was charged for another task" if known else "was never charged"
            found.append(
                f"line {line['number']}: round {line['round']} of {line['study']!r} left as private, and {how}"
            )
    return found


def _tasks(lines: Iterable[Line]) -> dict[tuple[str, int], set[str]]:
    """The tasks that each round of each study was charged for."""
    found: dict[tuple[str, int], set[str]] = {}
    for line in lines:
        if line["what"] == "charged":
            found.setdefault((line["study"], line["round"]), set()).add(line["task"])
    return found
