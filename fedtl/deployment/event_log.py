"""
``log.jsonl`` in the folder of a site or a coordinator: what fedtl logs, a JSON object a line. The file is private and is rotated, so that it
never has more than ``FILES`` times ``FILE_BYTES``. A site's ``silo.log`` is rotated in the same way.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedtl._util.files import lock_file

FILE_BYTES, FILES = 10 << 20, 5
LINE_CHARACTERS = 2000
FIELDS = "fields"  # the attribute of a log record that has further fields


class JsonLines(logging.Formatter):
    """One JSON object: ``at``, ``level``, ``source``, ``text``, and the fields that ``log_event`` gave."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": record.name,
            "text": record.getMessage(),
        }
        error = {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps({**facts, **error, **getattr(record, FIELDS, {})}, default=str)


class PrintedLine(logging.Formatter):
    """One line of at most ``LINE_CHARACTERS`` that a terminal prints: an error can have what a site sent, which could move the cursor."""

    def format(self, record: logging.LogRecord) -> str:
        return printed(super().format(record))


class PrintedMessages(logging.Filter):
    """Has each message that is logged be one line as ``PrintedLine`` writes it, whatever formats it. A traceback keeps its lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printed(record.getMessage()), None
        return True


def printed(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:LINE_CHARACTERS])


class _PrivateFile(RotatingFileHandler):
    """A full disk ends nothing. A file that somebody removes or renames is made anew."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILES - 1)

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream is not None and not self._is_named(self.stream):
            self.stream.close()
            self.stream = None  # it is opened again for this line
        super().emit(record)

    def _is_named(self, stream: TextIOWrapper) -> bool:
        """Whether the open file is the one that has the log's name."""
        try:
            return os.path.samestat(os.stat(self.baseFilename), os.fstat(stream.fileno()))
        except OSError:
            return False

    def handleError(self, record: logging.LogRecord) -> None:
        return

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=partial(os.open, mode=0o600))


def append_rotated(path: Path, text: str) -> None:
    """Append a line to a private file that is rotated as ``log.jsonl`` is. Several processes may do so at a time. A full disk ends nothing."""
    with suppress(OSError), lock_file(path.with_name(f".{path.name}.lock")):
        handler = _PrivateFile(path)
        handler.handle(logging.LogRecord(path.name, logging.INFO, "", 0, text, None, None))
        handler.close()


def log_event(
    log: logging.Logger, text: str, fields: Mapping[str, object], level: int = logging.INFO
) -> None:
    """Log a text, and for ``log.jsonl`` its fields too."""
    log.log(level, "%s", text, extra={FIELDS: dict(fields)})


@contextmanager
def event_log(folder: Path, parts: Sequence[str]) -> Iterator[None]:
    """
    Write what fedtl logs into ``folder/log.jsonl`` too; where this process runs one part alone, into ``log-<part>.jsonl``, because
    each file has one writer. A full disk ends nothing.
    """
    name = "log.jsonl" if len(parts) > 1 else f"log-{parts[0]}.jsonl"
    handler = _PrivateFile(folder / name)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("fedtl")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
