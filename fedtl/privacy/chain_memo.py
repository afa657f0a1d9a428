"""
Keeps what this process computed from the lines of a hash chain, so that in each round only new lines are read again: a chain grows by
two lines a round, and a round reads it several times.

Not a way around the hashes: all lines are read and hashed each time, and a hash stands for every line up to its own.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")
MAX_CHAINS = 4096  # the most chains that are remembered; the least recently used one is dropped


@dataclass(frozen=True)
class Known(Generic[Value]):
    """What was computed from the first ``lines`` lines of a chain, of which ``digest`` is the last hash."""

    lines: int
    digest: str
    value: Value


class ChainMemo(Generic[Value]):
    """
    One value for each chain, by the hash of its first line. ``entries`` are texts and hashes. A value is kept, and what ``longest``
    returns is used, only for lines that have their hashes.
    """

    def __init__(self) -> None:
        self._known: dict[str, Known[Value]] = {}
        self._lock = threading.Lock()

    def longest(self, entries: Sequence[tuple[str, str]]) -> Known[Value] | None:
        """Return what was kept of these lines or of the first of them; None where nothing was."""
        known = self._known.get(entries[0][1]) if entries else None
        if known is None or known.lines > len(entries) or entries[known.lines - 1][1] != known.digest:
            return None
        return known

    def keep(self, entries: Sequence[tuple[str, str]], value: Value) -> None:
        """Keep the value of these lines, in place of an earlier one of the chain."""
        if not entries:
            return
        with self._lock:
            self._known.pop(entries[0][1], None)
            self._known[entries[0][1]] = Known(len(entries), entries[-1][1], value)
            if len(self._known) > MAX_CHAINS:
                del self._known[next(iter(self._known))]
