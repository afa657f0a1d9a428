"""
What a ledger's lines say of themselves, recomputed by whoever gets them: the chain, each epsilon from the events before it,
each plan and each lifetime as they were kept, and whether what left was paid for. Reads lines alone, not the book, so that
a mistake in the book's own reading hides none in its writing.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.book import GENESIS

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


def charged(lines: Iterable[Line], study: str) -> list[SpendEvent]:
    """What was charged for a study, in order."""
    its = (line for line in lines if line["what"] == "charged" and line["study"] == study)
    return [event for line in its for event in _events(line)]


def _events(line: Line) -> list[SpendEvent]:
    return [SpendEvent(noise, rate, int(steps)) for noise, rate, steps in line["events"]]


def faults(lines: Iterable[Line]) -> list[str]:
    """In words, with the line's number; none: the arithmetic holds and no limit was passed."""
    found: list[str] = []
    plans: dict[str, Line] = {}
    events: dict[str, list[SpendEvent]] = {}
    spent: dict[str, float] = {}
    limit, rows = 0.0, ""
    for line in lines:
        where = f"ledger line {line['number']}"
        if line["what"] == "changed" and line["before"] != rows:
            found.append(
                f"{where}: rows {line['before'][:12]} changed, and the last that were confirmed are {rows[:12]}"
            )
        if line["what"] in ("opened", "confirmed"):
            rows = line["fingerprint"]
        if line["what"] in ("opened", "budget"):
            limit = line["epsilon"]
        elif line["what"] == "planned":
            plans[line["study"]], events[line["study"]] = line, []
        elif line["what"] == "charged":
            study, plan = line["study"], plans.get(line["study"])
            if plan is None:
                found.append(f"{where}: study {study!r} was charged and never planned")
                continue
            events[study] += _events(line)
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


def waiting(lines: Iterable[Line]) -> str:
    """The fingerprint of changed rows, the last that were met, which nobody has confirmed; "" for none."""
    last = ""
    for line in lines:
        if line["what"] in ("changed", "confirmed"):
            last = line["fingerprint"] if line["what"] == "changed" else ""
    return last


def unpaid(sent: Iterable[Line], lines: Iterable[Line]) -> list[str]:
    """Private messages that left and that no charge of the same task stands for; ``sent``: lines of an egress record."""
    paid = {(line["study"], line["round"]): line["task"] for line in lines if line["what"] == "charged"}
    return [
        f"line {line['number']}: round {line['round']} of {line['study']!r} left as private, and "
        + ("was charged for another task" if (line["study"], line["round"]) in paid else "was never charged")
        for line in sent
        if line["private"] and paid.get((line["study"], line["round"])) != line["task"]
    ]
