"""
What a silo keeps between rounds, on the disk: head, statistics, and the reply to the last round.

One file a study, model schema and silo; whole after a kill. Must not know how a round is computed.
"""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from fedtl._util.files import write_bytes
from fedtl.deployment.site.keys import FileEncryption
from fedtl.errors import LedgerDamaged
from fedtl.messages import Update
from fedtl.models.state import State
from fedtl.privacy.taint import Label, Labels

CHARGED = "charged.json"  # in a study's folder
STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class StoredRound:
    """
    The silo after ``round``, which was the task of this hash; ``labels`` say where its own tensors come from, ``update``
    is what it replied, and ``private`` whether that was made under a promise and charged.
    """

    round: int
    task: str
    local: State
    labels: Labels
    update: Update
    private: bool


@dataclass(frozen=True)
class SiloStateStore:
    """``schema``: the hash of the model's manifest and of what stays. ``seal`` None: in the clear."""

    folder: Path
    silo: str
    seal: FileEncryption | None = None

    def path(self, study: str, schema: str) -> Path:
        return self.folder / study / f"{schema[:32]}.safetensors"

    def save(self, study: str, schema: str, kept: StoredRound) -> None:
        header = {
            "silo": self.silo,
            "study": study,
            "schema": schema,
            "round": kept.round,
            "task": kept.task,
            "weight": kept.update.weight,
            "metrics": dict(kept.update.metrics),
            "labels": {name: str(label) for name, label in kept.labels.items()},
            "private": kept.private,
        }
        tensors = {f"local.{name}": its for name, its in kept.local.items()}
        tensors |= {f"delta.{name}": its for name, its in kept.update.delta.items()}
        content = save(tensors, {"header": json.dumps(header)})
        if self.seal:
            content = self.seal.close(content, self._about(study, schema))
        if kept.private:  # first, and in the clear even where the state is sealed, as the record is
            about = {"study": study, "round": kept.round, "task": kept.task}
            write_bytes(self.folder / study / CHARGED, json.dumps(about).encode(), private=True)
        write_bytes(self.path(study, schema), content, private=True)

    def charged(self) -> list[dict[str, Any]]:
        """Study, round and task of each study's last private round. Raises LedgerDamaged for what cannot be read."""
        found = []
        for path in sorted(self.folder.glob(f"*/{CHARGED}")):
            try:
                its = json.loads(path.read_text())
                found.append({key: its[key] for key in ("study", "round", "task")})
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise LedgerDamaged(f"{path} is damaged; put it back from a copy") from error
        return found

    def load(self, study: str, schema: str) -> StoredRound | None:
        """None before the first round. Raises LedgerDamaged for a file that is not this silo's."""
        path = self.path(study, schema)
        if not path.exists():
            return None
        content = path.read_bytes()
        if self.seal:
            content = self.seal.open(content, self._about(study, schema))
        try:
            length = int.from_bytes(content[:8], "little")
            header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["header"])
            tensors = load(content)
        except (ValueError, KeyError, SafetensorError) as error:
            raise LedgerDamaged(
                f"{path} is damaged or encrypted; put it back from a copy, or set key_file"
            ) from error
        if (header["silo"], header["study"], header["schema"]) != (self.silo, study, schema):
            raise LedgerDamaged(f"{path} is the state of {header['silo']} in study {header['study']!r}")
        parts = {
            part: {
                name.removeprefix(f"{part}."): its
                for name, its in tensors.items()
                if name.startswith(f"{part}.")
            }
            for part in ("local", "delta")
        }
        update = Update(self.silo, header["round"], parts["delta"], header["weight"], header["metrics"])
        labels = {name: Label(label) for name, label in header["labels"].items()}
        # fedtl 0.1.0 wrote what a round had cost instead.
        private = header["private"] if "private" in header else bool(header["spend"])
        return StoredRound(header["round"], header["task"], parts["local"], labels, update, private)

    def _about(self, study: str, schema: str) -> str:
        return f"{self.silo}/{study}/{schema}"


def schema_of(state: State) -> str:
    """A hash of every tensor's name, shape and kind: another model is another memory."""
    rows = [[name, list(its.shape), str(its.dtype)] for name, its in sorted(state.items())]
    return sha256(json.dumps(rows).encode()).hexdigest()
