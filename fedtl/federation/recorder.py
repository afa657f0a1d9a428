"""
A transcript: what the server sent and received in chosen rounds, recorded for attacks on the run afterwards.

It holds what crosses between server and silos and nothing else: the tensors sent, and each update as received.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedtl._util.files import write_file
from fedtl.federation.rounds import Federation
from fedtl.messages import Refusal, Task, Update, pack, unpack
from fedtl.models.state import State

SHARED = "shared"  # cannot be taken for a silo's file: those are in a folder of their own


def rounds_to_record(rounds: int, count: int) -> frozenset[int]:
    """``count`` of the rounds 1 to ``rounds``, evenly spread, with the first and the last among them."""
    if count < 2:
        return frozenset({1} if count else ())
    return frozenset(round(1 + step * (rounds - 1) / (count - 1)) for step in range(count))


@dataclass(frozen=True)
class RecordingFederation:
    """A federation that passes everything to another one and writes its ``rounds`` to ``folder``."""

    federation: Federation
    folder: Path
    rounds: frozenset[int]

    def silos(self) -> Sequence[str]:
        return self.federation.silos()

    def ask(self, task: Task, silos: Sequence[str]) -> Iterator[Update | Refusal]:
        recorded = task.round in self.rounds
        folder = _round_folder(self.folder, task.round)
        if recorded:
            write_file(folder / f"{SHARED}.safetensors", partial(save_file, task.shared))
        for reply in self.federation.ask(task, silos):
            if recorded and isinstance(reply, Update):
                _save_update(folder / "silos" / f"{reply.silo}.safetensors", reply)
            yield reply


@dataclass(frozen=True)
class RecordedRound:
    """One round as the server saw it: the tensors sent, and each silo's update and weight."""

    round: int
    shared: State
    deltas: dict[str, State]
    weights: dict[str, float]


def read_transcript(folder: Path) -> list[RecordedRound]:
    """All recorded rounds in order; an empty list where none was recorded."""
    recorded = []
    for path in sorted(folder.glob("round-*")) if folder.is_dir() else ():
        number = int(path.name.removeprefix("round-"))
        updates = [_read_update(file, number) for file in sorted((path / "silos").glob("*.safetensors"))]
        deltas = {update.silo: update.delta for update in updates}
        weights = {update.silo: update.weight for update in updates}
        recorded.append(RecordedRound(number, load_file(path / f"{SHARED}.safetensors"), deltas, weights))
    return recorded


def _save_update(path: Path, update: Update) -> None:
    """The tensors, and each plain value as JSON in the metadata."""
    header, tensors = pack(update)
    metadata = {name: json.dumps(value) for name, value in header.items()}
    write_file(path, lambda file: save_file(tensors, file, metadata))


def _read_update(path: Path, number: int) -> Update:
    with safe_open(path, "pt") as file:
        header = {name: json.loads(text) for name, text in file.metadata().items()}
    # fedtl 0.1.0 wrote the weight only.
    return unpack(Update, {"silo": path.stem, "round": number, "metrics": {}} | header, load_file(path))


def _round_folder(folder: Path, number: int) -> Path:
    return folder / f"round-{number:06d}"
