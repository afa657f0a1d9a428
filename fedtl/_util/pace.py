"""How long to wait between two looks at what another process will do."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

SHARE = 0.1


@dataclass
class Pace:
    """
    The pause before the next look is a tenth of the time since ``restart``, between ``shortest`` and ``longest`` seconds. So looking
    delays a result by at most a tenth of the time that was waited for it, and a process without work looks seldom.
    """

    shortest: float
    longest: float
    clock: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._begun = self.clock()

    @property
    def pause(self) -> float:
        return min(max(SHARE * (self.clock() - self._begun), self.shortest), self.longest)
