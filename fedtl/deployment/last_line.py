"""The last line that a process wrote, which often says why it ended, while all that it writes goes where this process writes."""

import os
import re
import select
import subprocess
import time
from codecs import getincrementaldecoder
from contextlib import suppress
from threading import Lock, Thread
from typing import IO

CHUNK_BYTES = 1 << 16
KEPT_BYTES = 4096  # of each pipe
LINE_CHARACTERS = 300
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# As fedtl, Flower, uvicorn and nginx write an error, and the end of a traceback. What follows while a process ends says less.
ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL)\b|\[emerg\]|^error: |^[\w.]*(Error|Exception)\b")


class CopiedOutput:
    """
    Copies what a process writes to stdout and stderr, which are pipes, to those of this process: from ``start`` on, as it comes, without colours
    and other characters that are not printed, since a process may log what a site sent. The last ``KEPT_BYTES`` of each are kept.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._targets: dict[IO[bytes], int] = {process.stdout: 1, process.stderr: 2}
        self._open = set(self._targets)
        self._tails = dict.fromkeys(self._targets, b"")
        self._decoders = {pipe: getincrementaldecoder("utf-8")("replace") for pipe in self._targets}
        self._lock = Lock()  # held while bytes are out of a pipe and not yet in its tail
        self._thread = Thread(target=self._copy, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def last_line(self, seconds: float = 1.0) -> str:
        """
        Return the last error in what was written before the call; where there is none, the last line of stderr, or else of stdout. It is
        without colours and at most ``LINE_CHARACTERS`` long; "" where nothing was written.
        """
        deadline = time.monotonic() + seconds
        while not self._all_read() and time.monotonic() < deadline:  # a child of the process may write on
            time.sleep(0.01)
        stdout, stderr = (_lines(tail) for tail in self._tails.values())
        errors = [line for line in (*stdout, *stderr) if ERROR.search(line)]
        text = next(reversed(errors or stderr or stdout), "")
        return text if len(text) <= LINE_CHARACTERS else f"{text[:LINE_CHARACTERS]}..."

    def finish(self, seconds: float = 1.0) -> None:
        """Wait until all was copied: no process has a pipe open any more. One that outlives its parent may keep it open."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if not self._thread.is_alive():
            for pipe in self._targets:
                pipe.close()

    def _all_read(self) -> bool:
        with self._lock:
            return not self._open or not select.select(list(self._open), [], [], 0)[0]

    def _copy(self) -> None:
        while self._open:
            for pipe in select.select(list(self._open), [], [])[0]:
                with self._lock:
                    chunk = os.read(pipe.fileno(), CHUNK_BYTES)
                    self._tails[pipe] = (self._tails[pipe] + chunk)[-KEPT_BYTES:]
                    if not chunk:
                        self._open.remove(pipe)
                shown = _shown(self._decoders[pipe].decode(chunk, final=not chunk)).encode()
                with suppress(OSError):  # a terminal that was closed; the process must not wait for it
                    while shown:
                        shown = shown[os.write(self._targets[pipe], shown) :]


def _lines(text: bytes) -> list[str]:
    """Return the lines with text, without colours and characters that are not printed."""
    return [line.strip() for line in _shown(text.decode(errors="replace")).split("\n") if line.strip()]


def _shown(text: str) -> str:
    """Return a text without colours and characters that are not printed; its lines and tabs stay."""
    return "".join(char for char in COLOUR.sub("", text) if char.isprintable() or char in "\n\t")
