"""What ``fedtl new`` proposes: settings, each with the reason for it and with what is doubtful about it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedtl._util.toml_text import Table

MOST_NAMED = 6


@dataclass(frozen=True)
class Guess:
    """
    One proposal. ``topic``: what it is about, such as "label"; ``choice``: what is proposed, in words; ``why``: the reason; ``doubt``: what
    a person should check, "" for nothing. ``settings``: values by the path of their key, such as "data.label".
    """

    topic: str
    choice: str
    why: str
    doubt: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def nested(guesses: Iterable[Guess]) -> Table:
    """Return the settings of all guesses as tables; a later guess replaces an earlier one."""
    table: Table = {}
    for guess in guesses:
        for path, value in guess.settings.items():
            *above, last = path.split(".")
            inner = table
            for part in above:
                inner = inner.setdefault(part, {})
            inner[last] = value
    return table


def listed(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """Return the names with commas between them, the first few of many."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
