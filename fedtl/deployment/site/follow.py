"""Follows the egress record of a site: each new line, for ``fedtl silo watch`` and for ``log.jsonl``."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fedtl.deployment.event_log import log_event
from fedtl.deployment.site.egress_lines import EgressLine, RoundRefused
from fedtl.deployment.site.home import Home
from fedtl.errors import FedTLError

log = logging.getLogger(__name__)
FIELDS = ("study", "round", "asked", "bytes", "code", "private")


@dataclass
class RecordFollower:
    """The lines since the last look, of which the first ``shown`` lines of the record are none. An unchanged file is not read."""

    home: Home
    shown: int
    _changed: int = field(default=0, init=False)

    def look(self) -> Iterator[EgressLine]:
        """Raises LedgerDamaged where the record was altered."""
        try:
            changed = os.stat(self.home.record.book.path).st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._changed:
            return
        lines = self.home.record.written()
        self._changed = changed
        new, self.shown = lines[self.shown :], len(lines)
        yield from new


def follow_record(home: Home, last: int, wait: Callable[[], None]) -> Iterator[EgressLine]:
    """Yield the ``last`` lines of the record, and then each new one, without an end. ``wait`` is called between two looks."""
    follower = RecordFollower(home, max(0, len(home.record.written()) - last))
    while True:
        yield from follower.look()
        wait()


class RecordWatch:
    """Logs each line that is written from now on."""

    def __init__(self, home: Home) -> None:
        self._follower = RecordFollower(home, len(home.record.written()))

    def __call__(self) -> None:
        try:
            for line in self._follower.look():
                facts = line.as_json()
                fields = {name: facts[name] for name in FIELDS if facts.get(name) is not None}
                level = logging.WARNING if isinstance(line.entry, RoundRefused) else logging.INFO
                where = f" {facts['study']} round {facts['round']}" if facts.get("round") else ""
                reason = f": {facts['reason']}" if facts.get("reason") else ""
                log_event(log, f"{facts['what']}{where}{reason}", {"event": facts["what"], **fields}, level)
        except FedTLError as error:
            log.error("%s", error)
