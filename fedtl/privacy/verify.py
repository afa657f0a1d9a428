"""
Recomputes everything that the lines of a ledger state: the chain, each epsilon from its events, each plan as it was
written, all plans together against the lifetime budget, and whether every private update was charged.

Works on lines alone and not through ``ledger_state``, so that a mistake in how the ledger adds up its lines does not hide a
mistake in what it wrote.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.hash_chain import GENESIS, ChainLine
from fedtl.privacy.ledger_lines import (
    BudgetChanged,
    LedgerLine,
    Opened,
    RoundCharged,
    RowsChanged,
    RowsConfirmed,
    StudyPlanned,
    spend_events,
)

TOLERANCE = 1e-6  # relative difference of two epsilons that were computed from the same events


def walk_chain(entries: Iterable[tuple[str, str]]) -> tuple[list[ChainLine], str, int]:
    """
    Return the lines of a chain, from their texts and hashes, up to the first that does not follow from the line before;
    the last hash; and the number of that first wrong line, 0 for none.
    """
    last, lines = GENESIS, list[ChainLine]()
    for number, (text, digest) in enumerate(entries, 1):
        if sha256(f"{last}{text}".encode()).hexdigest() != digest or (line := _line(text, number)) is None:
            return lines, last, number
        last = digest
        lines.append(line)
    return lines, last, 0


def _line(text: str, number: int) -> ChainLine | None:
    """Return the line, or None for a text that is not a line: the writer of a chain can give any text a correct hash."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.get("number") == number else None


@dataclass(frozen=True)
class StudyCost:
    """
    What a study takes from the budget: its plan's whole ``epsilon`` and ``delta``, from its first round on. ``charged``:
    the epsilon of its rounds up to ``round``. ``planned``: the events of its plan.
    """

    epsilon: float
    delta: float
    charged: float
    round: int
    planned: tuple[SpendEvent, ...]


def study_costs(lines: Iterable[LedgerLine]) -> dict[str, StudyCost]:
    """Return what each planned study costs by these lines. A study that exceeded its plan costs what was charged."""
    costs: dict[str, StudyCost] = {}
    for entry in (line.entry for line in lines):
        if isinstance(entry, StudyPlanned):
            costs[entry.study] = StudyCost(
                entry.epsilon, entry.delta, 0.0, 0, tuple(spend_events(entry.events))
            )
        elif isinstance(entry, RoundCharged) and entry.study in costs:
            cost = costs[entry.study]
            epsilon = max(cost.epsilon, entry.epsilon)
            costs[entry.study] = replace(cost, epsilon=epsilon, charged=entry.epsilon, round=entry.round)
    return costs


def find_faults(lines: Iterable[LedgerLine]) -> list[str]:
    """Return a message for each line that is wrong; none: the arithmetic is right and no limit was exceeded."""
    totals = _Totals()
    return [f"ledger line {line.number}: {fault}" for line in lines for fault in totals.add(line)]


class _Totals:
    """The sums while the lines of a ledger are read."""

    def __init__(self) -> None:
        self._limit, self._rows = (0.0, 0.0), ""
        self._plans, self._events = dict[str, StudyPlanned](), dict[str, list[SpendEvent]]()
        self._taken = dict[str, tuple[float, float]]()

    def add(self, line: LedgerLine) -> list[str]:
        """Add a line; returns what is wrong with it."""
        faults: list[str] = []
        match line.entry:
            case RowsChanged(before=before) if before != self._rows:
                faults = [f"rows {before[:12]} changed, but the last confirmed rows are {self._rows[:12]}"]
            case StudyPlanned() as plan:
                faults = self._planned(plan)
            case RoundCharged() as charged:
                faults = self._charged(charged)
        match line.entry:
            case Opened(fingerprint=rows) | RowsConfirmed(fingerprint=rows):
                self._rows = rows
        match line.entry:
            case Opened(epsilon=epsilon, delta=delta) | BudgetChanged(epsilon=epsilon, delta=delta):
                self._limit = epsilon, delta
        return faults

    def _planned(self, plan: StudyPlanned) -> list[str]:
        study, events = plan.study, spend_events(plan.events)
        faults = [f"study {study!r} was planned before"] if study in self._plans else []
        self._plans[study], self._events[study] = plan, []
        cost = accounting.epsilon(events, plan.delta)
        self._taken[study] = max(cost, plan.epsilon), plan.delta
        if cost > plan.epsilon * (1 + TOLERANCE):
            faults.append(f"the plan states epsilon {plan.epsilon:.4g}, but its events cost {cost:.4g}")
        return faults + self._over_budget()

    def _charged(self, charged: RoundCharged) -> list[str]:
        study, plan, faults = charged.study, self._plans.get(charged.study), list[str]()
        if plan is None:
            return [f"study {study!r} was charged and never planned"]
        self._events[study] += spend_events(charged.events)
        events, planned = self._events[study], spend_events(plan.events)
        within = _within(events, planned)
        # An earlier fedtl wrote what the events so far cost on a grid of their own, which is finer in early rounds.
        grids = (planned, events) if within else (events,)
        costs = (accounting.epsilon(events, plan.delta, plan=grid) for grid in grids)
        cost = accounting.epsilon(events, plan.delta, plan=grids[0])
        if all(abs(charged.epsilon - cost) > TOLERANCE * cost for cost in costs):
            faults.append(f"epsilon {charged.epsilon:.4g} is written, but the events so far cost {cost:.4g}")
        if cost > plan.epsilon * (1 + TOLERANCE):
            faults.append(f"epsilon {cost:.4g} exceeds the plan's {plan.epsilon:.4g}")
        if not within:
            faults.append("more steps than the plan has, or another noise or rate")
        self._taken[study] = max(cost, self._taken[study][0]), plan.delta
        return faults + self._over_budget()

    def _over_budget(self) -> list[str]:
        epsilon, delta = accounting.add_costs(self._taken.values())
        if epsilon <= self._limit[0] * (1 + TOLERANCE) and delta <= self._limit[1] * (1 + TOLERANCE):
            return []
        return [
            f"all plans together take epsilon {epsilon:.4g} and delta {delta:.3g}, which exceeds the lifetime budget of "
            f"{self._limit[0]:.4g} and {self._limit[1]:.3g} (a study takes its whole plan, also if it ended early)"
        ]


def _within(events: Sequence[SpendEvent], plan: Sequence[SpendEvent]) -> bool:
    most = {
        (event.noise_multiplier, event.sample_rate): event.steps for event in accounting.merge_events(plan)
    }
    return all(
        event.steps <= most.get((event.noise_multiplier, event.sample_rate), 0)
        for event in accounting.merge_events(events)
    )


def unconfirmed_rows(lines: Iterable[LedgerLine]) -> str:
    """Return the fingerprint of the last changed rows that are not confirmed; "" for none."""
    last = ""
    for entry in (line.entry for line in lines):
        if isinstance(entry, RowsChanged):
            last = entry.fingerprint
        elif isinstance(entry, RowsConfirmed):
            last = ""
    return last


@dataclass(frozen=True)
class PrivateMessage:
    """
    A private update that left, by line ``number`` of an egress record. ``task``: its hash. ``dataset`` None: an earlier
    fedtl sent it and did not record the dataset.
    """

    number: int
    study: str
    round: int
    task: str
    dataset: str | None = None


def find_uncharged(sent: Iterable[PrivateMessage], ledgers: Mapping[str, Sequence[LedgerLine]]) -> list[str]:
    """Return a text for each message that was not charged for the same task. ``ledgers``: the lines of each dataset."""
    charged = {name: _charged_tasks(lines) for name, lines in ledgers.items()}
    messages = []
    for one in sent:
        key = one.study, one.round
        datasets = [tasks for name, tasks in charged.items() if one.dataset in (None, name)]
        if not any(one.task in tasks.get(key, ()) for tasks in datasets):
            known = any(key in tasks for tasks in datasets)
            how = "was charged for another task" if known else "was never charged"
            messages.append(
                f"line {one.number}: round {one.round} of {one.study!r} left as private, but {how}"
            )
    return messages


def _charged_tasks(lines: Iterable[LedgerLine]) -> dict[tuple[str, int], set[str]]:
    """Return the tasks that each round of each study was charged for."""
    tasks: dict[tuple[str, int], set[str]] = {}
    for entry in (line.entry for line in lines):
        if isinstance(entry, RoundCharged):
            tasks.setdefault((entry.study, entry.round), set()).add(entry.task)
    return tasks
