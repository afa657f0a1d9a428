"""
What a ledger's lines say of themselves, recomputed by whoever gets them: each epsilon from the events before it, each
plan and each lifetime as they were kept. Reads the lines alone, not the book.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fedtl.messages import SpendEvent
from fedtl.privacy import accounting

CLOSE = 1e-6  # relative, of two epsilons from the same events
Line = Mapping[str, Any]


def faults(lines: Iterable[Line]) -> list[str]:
    """In words, with the line's number; none: the arithmetic holds and no limit was passed."""
    found: list[str] = []
    plans: dict[str, Line] = {}
    events: dict[str, list[SpendEvent]] = {}
    spent: dict[str, float] = {}
    limit = 0.0
    for line in lines:
        where = f"ledger line {line['number']}"
        if line["what"] in ("opened", "budget"):
            limit = line["epsilon"]
        elif line["what"] == "planned":
            plans[line["study"]], events[line["study"]] = line, []
        elif line["what"] == "charged":
            study, plan = line["study"], plans.get(line["study"])
            if plan is None:
                found.append(f"{where}: study {study!r} was charged and never planned")
                continue
            events[study] += [SpendEvent(noise, rate, int(steps)) for noise, rate, steps in line["events"]]
            spent[study] = accounting.epsilon(events[study], plan["delta"])
            if abs(line["epsilon"] - spent[study]) > CLOSE * spent[study]:
                found.append(
                    f"{where}: epsilon {line['epsilon']:.4g}, and its events come to {spent[study]:.4g}"
                )
            if spent[study] > plan["epsilon"] * (1 + CLOSE):
                found.append(
                    f"{where}: epsilon {spent[study]:.4g} is beyond the plan's {plan['epsilon']:.4g}"
                )
            if sum(spent.values()) > limit * (1 + CLOSE):
                found.append(
                    f"{where}: {sum(spent.values()):.4g} in all is beyond the lifetime budget of {limit:.4g}"
                )
    return found


def unpaid(sent: Iterable[Line], lines: Iterable[Line]) -> list[str]:
    """Private messages that left and that no charge of the same task stands for."""
    paid = {(line["study"], line["round"]): line["task"] for line in lines if line["what"] == "charged"}
    return [
        f"line {line['number']}: round {line['round']} of {line['study']!r} left as private, and "
        + ("was charged for another task" if (line["study"], line["round"]) in paid else "was never charged")
        for line in sent
        if line["private"] and paid.get((line["study"], line["round"])) != line["task"]
    ]
