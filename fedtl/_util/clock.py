"""Whether this machine's clock was set: by hand, by NTP after a long time without it, or because the machine was suspended."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

JUMP_SECONDS = 5.0  # a clock that is only corrected moves by less between two looks


@dataclass
class ClockJumps:
    """``wall``: the clock, in seconds since 1970. ``steady``: one that nobody sets."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _offset: float = field(init=False)

    def __post_init__(self) -> None:
        self._offset = self.wall() - self.steady()

    def since(self) -> float:
        """Return by how many seconds the clock was set since this object was made; 0.0 for fewer than ``JUMP_SECONDS``."""
        jump = self.wall() - self.steady() - self._offset
        return jump if abs(jump) >= JUMP_SECONDS else 0.0


def jump_text(seconds: float) -> str:
    """Return "set forward by 3600 s" or "set back by 3600 s"."""
    return f"set {'forward' if seconds > 0 else 'back'} by {abs(seconds):.0f} s"
