"""Warnings of a process that runs for a year: what it says when it starts is forgotten, and what ends in 30 days was not near then."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)
DAY_SECONDS = 86_400.0


@dataclass
class DailyWarnings:
    """Logs what ``warnings`` returns, once a day, for the first time a day after it was made."""

    warnings: Callable[[], Sequence[str]]
    clock: Callable[[], float] = time.monotonic
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def __call__(self) -> None:
        if self.clock() - self._last < DAY_SECONDS:
            return
        self._last = self.clock()
        for line in self.warnings():
            log.warning("%s", line)
