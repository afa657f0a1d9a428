"""
The egress record: a line for every message in and out, with the hash of every tensor, in a chain that shows if a line
was altered or taken out. It can be exported, and checked by anybody who has this file's few lines.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtl.errors import ConfigError, LedgerDamaged
from fedtl.privacy.hash_chain import HashChainFile

if TYPE_CHECKING:  # the SuperNode writes lines without tensors, and does without torch
    from torch import Tensor

    from fedtl.deployment.site.signed import SignedTerms
    from fedtl.messages import Task, Update
    from fedtl.models.state import State
    from fedtl.privacy.ledger_lines import LedgerLine

EgressLine = dict[str, Any]
NUMBER = (
    "not in the message; public under the claim, and the coordinator can infer it from the size of the noise"
)


class EgressLog:
    """One site's; the chain bears its name."""

    def __init__(self, path: Path, silo: str) -> None:
        self.book, self.silo = HashChainFile(path), silo

    def note(self, what: str, **content: Any) -> None:
        """On the disk when this returns."""
        self.book.create()
        with self.book.write(self.silo) as chain:
            chain.append(what, **content)

    def received(self, task: "Task", plan: str) -> None:
        self.note("received", **_task(task), plan=plan, **_tensors(task.shared))

    def sent(
        self, task: "Task", update: "Update", terms: "SignedTerms", dataset: str | None, again: bool
    ) -> None:
        """
        ``terms``: those in force when it left, to be compared with those that were signed. ``dataset``: to which the update
        was charged; None where it was made without differential privacy.
        """
        self.note(
            "sent",
            **_task(task),
            plan=terms.plan,
            manifest=terms.manifest,
            private=dataset is not None,
            again=again,
            **({"dataset": dataset, "number_of_units": NUMBER} if dataset is not None else {}),
            terms=terms.model_dump(),
            weight=update.weight,
            metrics=dict(update.metrics),
            **_tensors(update.delta),
        )

    def refused(self, task: "Task | None", code: str, reason: str) -> None:
        self.note("refused", **(_task(task) if task else {}), code=code, reason=reason)

    def lines(self) -> list[EgressLine]:
        """Raises LedgerDamaged where the chain is broken."""
        with self.book.read(self.silo) as chain:
            return chain.lines()

    def export(self) -> Iterator[str]:
        """Every line and its hash, as one JSON each."""
        return exported(self.book, self.silo)


def exported(book: HashChainFile, name: str) -> Iterator[str]:
    """A chain's lines, each with its hash, as one JSON each."""
    with book.read(name) as chain:
        entries = list(chain.entries)
    return (json.dumps({"line": text, "hash": digest}) for text, digest in entries)


def verify(lines: Sequence[str], source: str) -> list[EgressLine]:
    """The lines of an export, whose chain holds. Raises LedgerDamaged at the first that does not."""
    from fedtl.privacy.verify import walk_chain

    found, _, odd = walk_chain(_entry(text) for text in lines)
    if odd:
        raise LedgerDamaged(f"{source}: line {odd} was altered, or one before it is gone")
    return found


def read_export(path: Path) -> tuple[list[EgressLine], dict[str, list["LedgerLine"]]]:
    """
    The record's lines, and after an empty line each those of the ledger's datasets. Raises LedgerDamaged, ConfigError for
    what is no text.
    """
    try:
        first, *rest = path.read_text().split("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no export of a site: {error}") from error
    from fedtl.privacy.ledger_lines import parse_lines

    ledgers: dict[str, list[LedgerLine]] = {}
    for part in rest:
        lines = parse_lines(verify(part.splitlines(), f"{path}, the ledger"))
        if lines and ledgers.setdefault(lines[0].chain, lines) is not lines:
            raise LedgerDamaged(f"{path}: the ledger of {lines[0].chain!r} stands in it twice")
    return verify(first.splitlines(), str(path)), ledgers


def _entry(text: str) -> tuple[str, str]:
    """A line and its hash; of one that cannot be read, what follows from nothing."""
    try:
        entry = json.loads(text)
        return str(entry["line"]), str(entry["hash"])
    except (ValueError, KeyError, TypeError):
        return "", ""


def _task(task: "Task") -> dict[str, Any]:
    from fedtl.privacy.charge import task_hash

    return {"study": task.study[:100], "round": task.round, "task": task_hash(task)}


def _tensors(state: "State") -> Mapping[str, Any]:
    from fedtl.models.state import size_in_bytes

    rows = {
        name: {
            "sha256": digest(its),
            "shape": list(its.shape),
            "dtype": str(its.dtype).removeprefix("torch."),
        }
        for name, its in sorted(state.items())
    }
    return {"bytes": size_in_bytes(state), "tensors": rows}


def digest(tensor: "Tensor") -> str:
    """Of the tensor's bytes, in its own order."""
    import torch

    return sha256(
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    ).hexdigest()
