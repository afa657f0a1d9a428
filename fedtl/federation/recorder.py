"""
What the server saw in some rounds, kept for those who attack a run afterwards: a federation between server and silos.

What crosses is what is kept, nothing else: the tensors that went out, and each update as it came.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedtl._util.files import write
from fedtl.federation.rounds import Federation
from fedtl.messages import Refusal, Task, Update
from fedtl.models.state import State

SHARED = "shared"  # no silo's file: silos' stand in a folder of their own


def kept_rounds(rounds: int, count: int) -> frozenset[int]:
    """So many rounds, the first and the last among them, evenly spread."""
    if count < 2:
        return frozenset({1} if count else ())
    return frozenset(round(1 + at * (rounds - 1) / (count - 1)) for at in range(count))


@dataclass(frozen=True)
class Recorded:
    """``federation``, with these ``rounds`` written to ``folder`` while they pass by."""

    federation: Federation
    folder: Path
    rounds: frozenset[int]

    def silos(self) -> Sequence[str]:
        return self.federation.silos()

    def ask(self, task: Task, silos: Sequence[str]) -> Iterator[Update | Refusal]:
        chosen = task.round in self.rounds
        if chosen:
            _save(_place(self.folder, task.round) / f"{SHARED}.safetensors", task.shared)
        for reply in self.federation.ask(task, silos):
            if chosen and isinstance(reply, Update):
                path = _place(self.folder, task.round) / "silos" / f"{reply.silo}.safetensors"
                _save(path, reply.delta, {"weight": repr(reply.weight)})
            yield reply


@dataclass(frozen=True)
class Seen:
    """One round as the server saw it: what it sent, what came back from each silo, and with what weight."""

    round: int
    shared: State
    deltas: dict[str, State]
    weights: dict[str, float]


def read(folder: Path) -> list[Seen]:
    """All rounds that were kept, in order; none where the run kept none."""
    found = []
    for place in sorted(folder.glob("round-*")) if folder.is_dir() else ():
        paths = {path.stem: path for path in sorted((place / "silos").glob("*.safetensors"))}
        deltas = {name: load_file(path) for name, path in paths.items()}
        number = int(place.name.removeprefix("round-"))
        weights = {name: _weight(path) for name, path in paths.items()}
        found.append(Seen(number, load_file(place / f"{SHARED}.safetensors"), deltas, weights))
    return found


def _weight(path: Path) -> float:
    with safe_open(path, "pt") as file:
        return float(file.metadata()["weight"])


def _place(folder: Path, number: int) -> Path:
    return folder / f"round-{number:06d}"


def _save(path: Path, state: State, about: dict[str, str] | None = None) -> None:
    write(path, lambda file: save_file(state, file, about))
