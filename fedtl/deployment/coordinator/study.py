"""
A study at the coordinator: its folder, the rounds, a checkpoint after each, and going on from there after a crash.
Holds no data and knows no model, only tensors by name.

    plan.json    what was agreed: rounds, seed, minimum, server step, roles      start.safetensors   the first shared tensors
    history.jsonl  a line a round       checkpoint/state.pt      shared.safetensors, result.json    when it is done
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fedtl._util.files import lock_folder, write_bytes, write_file
from fedtl.errors import ConfigError, NotEnoughSilos
from fedtl.federation.rounds import Federation, FederationConfig, Round, ServerState, run_rounds
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role
from fedtl.models.state import State
from fedtl.privacy import taint_metadata as marks
from fedtl.privacy.taint import Label

log = logging.getLogger(__name__)
STOPPED = "stopped"  # the file that says why nobody goes on with a study by itself
LOCATION = "FEDTL_SERVER"  # the environment variable by which a ServerApp finds its folder


@dataclass(frozen=True)
class HostedStudy:
    """A folder. In its plan, ``deadline``: seconds for a round; ``tries``: how often a round is asked that has too few replies."""

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        plan: FederationConfig,
        roles: Mapping[str, Role],
        start: State,
        about: Mapping[str, Any],
    ) -> "HostedStudy":
        """Raises ConfigError where another study of that name stands; the very same one is opened again."""
        content = {
            **asdict(plan),
            "roles": {name: str(role) for name, role in roles.items()},
            **about,
        }
        text = json.dumps(content, indent=1) + "\n"
        if (path / "plan.json").is_file():
            if (path / "plan.json").read_text() != text:
                raise ConfigError(f"{path} holds another study; give this one another --study NAME")
            return cls(path)
        write_file(path / "start.safetensors", lambda file: save_file(start, file), private=True)
        write_bytes(path / "plan.json", text.encode(), private=True)
        return cls(path)

    @property
    def about(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / "plan.json").read_text())
            return content
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path} is no study: {error}") from error

    @property
    def done(self) -> bool:
        return (self.path / "result.json").is_file()

    def history(self) -> list[dict[str, Any]]:
        path = self.path / "history.jsonl"
        whole = path.read_text().split("\n")[:-1] if path.exists() else []  # a torn last line has no newline
        return [json.loads(line) for line in whole]

    def standing(self) -> ServerState:
        """The last checkpoint, or the start. Lines of the history that are younger than it are dropped."""
        path = self.path / "checkpoint" / "state.pt"
        if not path.exists():
            standing = ServerState(0, load_file(self.path / "start.safetensors"))
        else:
            its = torch.load(path, weights_only=True)
            standing = ServerState(its["round"], its["shared"], its["memory"])
        kept = [json.dumps(line) + "\n" for line in self.history() if line["round"] <= standing.round]
        if kept or (self.path / "history.jsonl").exists():
            write_bytes(self.path / "history.jsonl", "".join(kept).encode(), private=True)
        return standing

    def save(self, one: Round, seconds: float) -> None:
        """The line first, then the checkpoint: a line without its checkpoint is dropped on the way back."""
        line = {
            "round": one.after.round,
            "seconds": round(seconds, 3),
            "silos": {name: dict(its.metrics) for name, its in one.replies.items()},
            "left_out": dict(one.left_out),
            "bytes_up": one.bytes_up,
            "bytes_down": one.bytes_down,
        }
        self.append(line)
        content = {"round": one.after.round, "shared": one.after.shared, "memory": one.after.memory}
        write_file(
            self.path / "checkpoint" / "state.pt", lambda file: torch.save(content, file), private=True
        )

    def alone(self) -> AbstractContextManager[None]:
        """One process at a time: what a crashed server left behind has let go when this returns."""
        return lock_folder(self.path)

    def append(self, line: Mapping[str, Any]) -> None:
        handle = os.open(self.path / "history.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def host(
    study: HostedStudy,
    federation: Callable[[int, float], Federation],
    progress: Callable[[Round], None] | None = None,
) -> dict[str, Any]:
    """
    The rounds that are left, and then the result. ``federation``: of a minimum and a deadline.

    Raises NotEnoughSilos when a round had too few valid replies, ``tries`` times in a row.
    """
    with study.alone():
        return _host(study, federation, progress)


def _host(
    study: HostedStudy,
    federation: Callable[[int, float], Federation],
    progress: Callable[[Round], None] | None,
) -> dict[str, Any]:
    about = study.about
    plan = FederationConfig(
        about["study"],
        about["seed"],
        about["rounds"],
        ServerStep(**about["server"]),
        about["silos_per_round"],
        about["minimum_silos"],
    )
    roles = {name: Role(role) for name, role in about["roles"].items()}
    standing, left = study.standing(), about["tries"]
    silos = federation(plan.minimum_silos, about["deadline"])
    while standing.round < plan.rounds:
        clock = time.monotonic()
        try:
            for one in run_rounds(silos, plan, standing, roles):
                study.save(one, time.monotonic() - clock)
                standing, left, clock = one.after, about["tries"], time.monotonic()
                if progress:
                    progress(one)
        except NotEnoughSilos as error:
            left -= 1
            log.warning("%s%s", error, "; asking again" if left else "")
            if left < 1:
                write_bytes(study.path / STOPPED, f"{error}\n".encode(), private=True)
                raise
    said = _marks(about, standing.shared)
    write_file(
        study.path / "shared.safetensors", lambda file: save_file(standing.shared, file, said), private=True
    )
    result = summary(study)
    write_bytes(study.path / "result.json", (json.dumps(result, indent=1) + "\n").encode(), private=True)
    return result


def _marks(about: Mapping[str, Any], shared: State) -> dict[str, str] | None:
    """
    Where the model comes from: released with noise, where the plan has every site train so; else from somebody's
    rows as they are. None for a plan that does not say.
    """
    if "private" not in about:
        return None
    return marks.metadata(dict.fromkeys(shared, Label.RELEASED if about["private"] else Label.LOCAL))


def summary(study: HostedStudy) -> dict[str, Any]:
    """What only updates carried: nothing here was measured on anybody's test rows."""
    about, lines = study.about, study.history()
    left_out: dict[str, list[str]] = {}
    for line in lines:
        for name, reason in line["left_out"].items():
            left_out.setdefault(name, []).append(f"round {line['round']}: {reason}")
    took_part = sorted({name for line in lines for name in line["silos"]})
    return {
        "study": about["study"],
        "rounds": len(lines),
        "silos": {name: sum(name in line["silos"] for line in lines) for name in took_part},
        "left_out": left_out,
        "bytes_up": sum(line["bytes_up"] for line in lines),
        "bytes_down": sum(line["bytes_down"] for line in lines),
        "seconds": round(sum(line["seconds"] for line in lines), 3),
    }
