"""
What the server writes after every round, in a run folder or in the folder of a study: a line in ``history.jsonl``, and a
checkpoint to continue from.
"""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedtl._util.files import append_durably, write_bytes, write_file
from fedtl._util.records import from_plain, to_plain
from fedtl.errors import ConfigError, first_line
from fedtl.federation.rounds import Round, ServerState
from fedtl.results.run import HistoryLine


def history_line(finished: Round, seconds: float) -> HistoryLine:
    """Return the line of a round. ``seconds``: the time that it took."""
    metrics = {name: dict(reply.metrics) for name, reply in finished.replies.items()}
    return HistoryLine(
        round=finished.after.round,
        seconds=round(seconds, 3),
        silos=metrics,
        left_out=dict(finished.left_out),
        bytes_up=finished.bytes_up,
        bytes_down=finished.bytes_down,
        bytes_full=finished.bytes_full,
        weights={name: reply.weight for name, reply in finished.replies.items()},
        norms={name: float(f"{reply.norm:.6g}") for name, reply in finished.replies.items()},
    )


def left_out_reasons(lines: Sequence[HistoryLine]) -> dict[str, tuple[str, ...]]:
    """Return by silo the rounds in which its reply did not count, and why."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        for name, reason in line.left_out.items():
            reasons.setdefault(name, []).append(f"round {line.round}: {reason}")
    return {name: tuple(own) for name, own in reasons.items()}


@dataclass(frozen=True)
class Checkpoint:
    """The server's state after a round, and what else the writer stored with it."""

    server: ServerState
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundLog:
    """
    Writes history and checkpoints. ``private``: only the owner may read the files. A process killed at any moment leaves
    both files usable.
    """

    folder: Path
    private: bool = False

    @property
    def _history(self) -> Path:
        return self.folder / "history.jsonl"

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "state.pt"

    def lines(self) -> list[HistoryLine]:
        """Return the lines of all finished rounds. An incomplete last line is ignored. Raises ConfigError for a damaged file."""
        try:
            complete = self._history.read_text().split("\n")[:-1] if self._history.exists() else []
            return [from_plain(HistoryLine, json.loads(line)) for line in complete]
        except ValueError as error:
            raise ConfigError(
                f"{self._history} is not the history of a run: {error}; restore it from a backup, or start again in a new folder"
            ) from error

    @property
    def version(self) -> tuple[int, int, int] | None:
        """Time, size and number of the history's file, which change when it changes; None where there is none."""
        try:
            found = self._history.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    @property
    def length(self) -> int:
        """How many complete lines the history has, whatever is in them."""
        return self._history.read_bytes().count(b"\n") if self._history.exists() else 0

    @property
    def has_checkpoint(self) -> bool:
        """Whether the checkpoint of a round was written."""
        return self._checkpoint.exists()

    @property
    def stored_round(self) -> int:
        """The round of the checkpoint; 0 where there is none. Raises ConfigError for a damaged one."""
        content = self._read_checkpoint()
        return content["round"] if content else 0

    def append(self, line: HistoryLine) -> None:
        """Append a line, durably. To be written before the round's checkpoint."""
        append_durably(self._history, json.dumps(to_plain(line), allow_nan=False) + "\n", self.private)

    def save(self, server: ServerState, **extra: Any) -> None:
        """Write the checkpoint of a round. ``extra``: further values that ``torch.load`` reads with weights_only."""
        content = {
            "round": server.round,
            "shared": server.shared,
            "memory": server.memory,
            "soup": server.soup,
            **extra,
        }
        write_file(self._checkpoint, lambda file: torch.save(content, file), self.private)

    def resume(self) -> Checkpoint | None:
        """
        Return the last checkpoint, or None before the first round. Lines of later rounds are dropped, because these rounds
        are done again. Raises ConfigError for a damaged checkpoint.
        """
        content = self._read_checkpoint()
        for unfinished in self._checkpoint.parent.glob(f".{self._checkpoint.name}.*"):  # of killed processes
            unfinished.unlink()
        done = content["round"] if content else 0
        kept = [json.dumps(to_plain(line)) + "\n" for line in self.lines() if line.round <= done]
        if kept or self._history.exists():
            write_bytes(self._history, "".join(kept).encode(), self.private)
        if content is None:
            return None
        round, shared, memory = (content.pop(key) for key in ("round", "shared", "memory"))
        server = ServerState(round, shared, memory, content.pop("soup", {}))
        return Checkpoint(server, content)

    def _read_checkpoint(self) -> dict[str, Any] | None:
        if not self._checkpoint.exists():
            return None
        try:
            content: dict[str, Any] = torch.load(self._checkpoint, weights_only=True)
            return content
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = first_line(error)[:80]
            raise ConfigError(
                f"{self._checkpoint} is damaged ({reason}); restore it from a backup, or start again in a new folder"
            ) from error
