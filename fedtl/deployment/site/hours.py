"""The hours of the day in which a site trains, by the clock of its own machine. Outside them it starts no training, and says so."""

import re
from dataclasses import dataclass
from datetime import datetime, time

from fedtl.errors import Denied
from fedtl.federation.policy import Code

HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Hours:
    """From ``start`` until just before ``end``, which is on the next day where it is not later than ``start``."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> "Hours":
        """Return the hours in a text such as "20:00-06:00". Raises ValueError."""
        match = HOURS.fullmatch(text)
        if not match or match.group(1, 2) == match.group(3, 4):
            raise ValueError('must be two different times of the day, as in "20:00-06:00"')
        return cls(time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4])))

    def contain(self, at: time) -> bool:
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


def check_hours(text: str) -> None:
    """``text``: the setting ``hours``; "" means always. Raises Denied outside them."""
    now = datetime.now().time()
    if text and not Hours.parse(text).contain(now):
        raise Denied(Code.HOURS, f"it is {now:%H:%M}, and this site trains {text} (hours in silo.toml)")
