"""What all writers of a run's rounds have in common: each round is written once, and what was opened is closed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from fedtl.results.run import HistoryLine


class RoundWriter(ABC):
    """Writes each round of a run once, in the format of a subclass. It is used in a ``with`` statement."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._last: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, run: str, lines: Sequence[HistoryLine]) -> None:
        """Write the rounds of the run that have not been written."""
        if new := [line for line in lines if line.round > self._last.get(run, 0)]:
            self._write(run, new)
            self._last[run] = new[-1].round

    @abstractmethod
    def _write(self, run: str, lines: Sequence[HistoryLine]) -> None:
        """Write these rounds, so that other processes can read them when this returns."""
