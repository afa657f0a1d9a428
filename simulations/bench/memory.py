"""The largest memory of some processes that another process started."""

import re
import threading
from pathlib import Path
from typing import Self

from tests.real_processes import descendants

POLL_SECONDS = 0.5


class PeakOf:
    """
    The largest resident memory, in MiB, of a process and its descendants, of those whose command line has one of these words, within
    the ``with`` block. The kernel keeps the maximum of each process, so that looking seldom misses only those that end at once.
    """

    def __init__(self, pid: int, words: tuple[str, ...]) -> None:
        self.mib: dict[str, float] = {}
        self._pid, self._words, self._over = pid, words, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for pid, argv in [(self._pid, _command(self._pid)), *descendants(self._pid)]:
                for word in self._words:
                    if any(word in part for part in argv):
                        self.mib[word] = max(self.mib.get(word, 0.0), _peak(pid))
            if self._over.wait(POLL_SECONDS):
                return


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def _peak(pid: int) -> float:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
