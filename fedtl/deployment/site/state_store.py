"""
What a silo keeps between rounds, on disk: its head, its statistics, and its reply to the last round. There is one file for
each study and model schema; it is written atomically, so a killed process leaves it complete.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from fedtl._util.files import write_bytes, write_json
from fedtl.deployment.site.keys import FileEncryption
from fedtl.errors import LedgerDamaged
from fedtl.messages import Update, pack, unpack
from fedtl.models.state import State
from fedtl.privacy.taint import Label, Labels

PRIVATE_ROUND_FILE = "charged.json"  # in a study's folder


@dataclass(frozen=True)
class StoredRound:
    """
    The silo after a round. ``task``: the hash of the task. ``labels``: the provenance of the local tensors.
    ``update``: the reply. ``private``: whether it was made with differential privacy and charged.
    """

    task: str
    local: State
    labels: Labels
    update: Update
    private: bool

    @property
    def round(self) -> int:
        return self.update.round


@dataclass(frozen=True)
class PrivateRound:
    """The last round of a study that was answered with differential privacy."""

    study: str
    round: int
    task: str


@dataclass(frozen=True)
class SiloStateStore:
    """``folder``: of all studies. ``encryption`` None: the files are not encrypted."""

    folder: Path
    silo: str
    encryption: FileEncryption | None = None

    def path(self, study: str, schema: str) -> Path:
        return self.folder / study / f"{schema[:32]}.safetensors"

    def save(self, study: str, schema: str, stored: StoredRound) -> None:
        """``schema``: the hash of the model's tensors, as ``schema_of`` returns it."""
        content = _pack(study, schema, stored)
        if self.encryption:
            content = self.encryption.encrypt(content, self._context(study, schema))
        if stored.private:
            # Written first, and never encrypted: the ledger is checked against it also without the key.
            last = PrivateRound(study, stored.round, stored.task)
            path = self.folder / study / PRIVATE_ROUND_FILE
            write_json(path, last, private=True)
        write_bytes(self.path(study, schema), content, private=True)

    def last_private_rounds(self) -> list[PrivateRound]:
        """Return the last private round of each study. Raises LedgerDamaged for a file that cannot be read."""
        rounds = []
        for path in sorted(self.folder.glob(f"*/{PRIVATE_ROUND_FILE}")):
            try:
                content = json.loads(path.read_text())
                rounds.append(PrivateRound(content["study"], content["round"], content["task"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise LedgerDamaged(f"{path} is damaged; restore it from a backup") from error
        return rounds

    def load(self, study: str, schema: str) -> StoredRound | None:
        """Return None before the first round. Raises LedgerDamaged for a damaged file and for another silo's or study's."""
        path = self.path(study, schema)
        if not path.exists():
            return None
        content = path.read_bytes()
        if self.encryption:
            content = self.encryption.decrypt(content, self._context(study, schema))
        try:
            length = int.from_bytes(content[:8], "little")
            header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["header"])
            stored = _unpack(header, load(content))
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise LedgerDamaged(
                f"{path} is damaged or encrypted; restore it from a backup, or set key_file in silo.toml"
            ) from error
        if (header["silo"], header["study"], header["schema"]) != (self.silo, study, schema):
            raise LedgerDamaged(
                f"{path} holds the state of silo {header['silo']!r} in study {header['study']!r}; restore the file of {study!r}"
            )
        return stored

    def _context(self, study: str, schema: str) -> str:
        return f"{self.silo}/{study}/{schema}"


def _pack(study: str, schema: str, stored: StoredRound) -> bytes:
    update, delta = pack(stored.update)
    header = {
        **update,
        "study": study,
        "schema": schema,
        "task": stored.task,
        "labels": {name: str(label) for name, label in stored.labels.items()},
        "private": stored.private,
    }
    tensors = {f"local.{name}": tensor for name, tensor in stored.local.items()}
    tensors |= {f"delta.{name}": tensor for name, tensor in delta.items()}
    return save(tensors, {"header": json.dumps(header)})


def _unpack(header: dict[str, Any], tensors: State) -> StoredRound:
    local, delta = (
        {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
        for part in ("local.", "delta.")
    )
    fields = {key: header[key] for key in ("silo", "round", "weight", "metrics")}
    update = unpack(Update, fields, delta)
    labels = {name: Label(label) for name, label in header["labels"].items()}
    # fedtl 0.1.0 wrote what the round had cost instead of "private".
    private = header["private"] if "private" in header else bool(header["spend"])
    return StoredRound(header["task"], local, labels, update, private)


def schema_of(state: State) -> str:
    """Return a hash of every tensor's name, shape and type. Another model has another file."""
    rows = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in sorted(state.items())]
    return sha256(json.dumps(rows).encode()).hexdigest()
