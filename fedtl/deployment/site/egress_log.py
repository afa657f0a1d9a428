"""
The egress record: a line for every message in and out, with the hash of every tensor, in a hash chain that shows whether a
line was altered or removed. It can be exported, and checked with the exported file alone.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedtl.deployment.site.egress_lines import (
    EgressLine,
    Entry,
    Malformed,
    RoundRefused,
    TaskReceived,
    UpdateSent,
    VerdictSent,
    content_of,
    parse_lines,
)
from fedtl.errors import ConfigError, LedgerDamaged
from fedtl.privacy.hash_chain import ChainLine, HashChainFile

if TYPE_CHECKING:  # the SuperNode writes lines without tensors and must not import torch
    from torch import Tensor

    from fedtl.deployment.site.signed import SignedTerms
    from fedtl.messages import Task, Update
    from fedtl.models.state import State
    from fedtl.privacy.ledger_lines import LedgerLine
    from fedtl.results.comparison import Verdict

NUMBER_OF_UNITS = (
    "not in the message; public under the claim, and the coordinator can infer it from the size of the noise"
)


class EgressLog:
    """The record of one site. The name of its chain is the site's name."""

    def __init__(self, path: Path, silo: str) -> None:
        self.book, self.silo = HashChainFile(path), silo

    def append(self, entry: Entry) -> None:
        """Write a line. It is on disk when this returns."""
        self.book.create()
        with self.book.write(self.silo) as chain:
            chain.append(**content_of(entry))

    def received(self, task: "Task", plan: str, asked: Literal["verdict"] | None = None) -> None:
        """``plan``: the hash of the agreement. ``asked``: None for a round."""
        question = {} if asked is None else {"asked": asked}
        self.append(TaskReceived(**_task(task), plan=plan, **question, **_tensors(task.shared)))

    def sent(
        self, task: "Task", update: "Update", terms: "SignedTerms", dataset: str | None, again: bool
    ) -> None:
        """
        ``terms``: those in force now, for a comparison with the signed ones. ``dataset``: the one that the update was
        charged to; None for an update without differential privacy. ``again``: the same reply left before.
        """
        charged_to = {"dataset": dataset, "number_of_units": NUMBER_OF_UNITS} if dataset is not None else {}
        self.append(
            UpdateSent(
                **_task(task),
                plan=terms.plan,
                manifest=terms.manifest,
                private=dataset is not None,
                again=again,
                **charged_to,
                terms=terms.model_dump(),
                weight=update.weight,
                metrics=dict(update.metrics),
                **_tensors(update.delta),
            )
        )

    def verdict_sent(self, question: "Task", terms: "SignedTerms", verdict: "Verdict", again: bool) -> None:
        """``terms``, ``again``: as in ``sent``."""
        self.append(
            VerdictSent(
                **_task(question),
                plan=terms.plan,
                manifest=terms.manifest,
                again=again,
                terms=terms.model_dump(),
                verdict=verdict,
            )
        )

    def refused(self, task: "Task | None", code: str, reason: str) -> None:
        self.append(RoundRefused(**(_task(task) if task else {}), code=code, reason=reason))

    def lines(self) -> list[EgressLine]:
        """Return the lines of the record. Raises LedgerDamaged where the chain is broken, or a line is malformed."""
        lines = self.written()
        for line in lines:
            if isinstance(line.entry, Malformed):
                raise LedgerDamaged(
                    f"{self.book.path}: line {line.number} is not a line of a record ({line.entry.reason}); if a newer fedtl "
                    "wrote it, update fedtl"
                )
        return lines

    def written(self) -> list[EgressLine]:
        """Return the lines as ``lines`` does, malformed ones included."""
        with self.book.read(self.silo) as chain:
            return parse_lines(chain.lines())

    def export(self) -> Iterator[str]:
        """Yield each line with its hash, as JSON."""
        return export_chain(self.book, self.silo)


def export_chain(book: HashChainFile, name: str) -> Iterator[str]:
    """Yield each line of a chain with its hash, as JSON."""
    with book.read(name) as chain:
        entries = list(chain.entries)
    return (json.dumps({"line": text, "hash": digest}) for text, digest in entries)


def verify_lines(lines: Sequence[str], source: str) -> list[ChainLine]:
    """Return the plain lines of an exported chain. Raises LedgerDamaged at the first line that does not follow from the one before."""
    from fedtl.privacy.verify import walk_chain

    verified, _, broken = walk_chain(_entry(text) for text in lines)
    if broken:
        raise LedgerDamaged(f"{source}: line {broken} was altered, or a line before it is missing")
    return verified


def read_export(path: Path) -> tuple[list[EgressLine], dict[str, list["LedgerLine"]]]:
    """
    Return the lines of an exported record, and of the ledger of each dataset. An empty line separates them in the file.
    Raises LedgerDamaged, and ConfigError for a file that is not text.
    """
    try:
        record, *rest = path.read_text().split("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not an exported record: {error}") from error
    from fedtl.privacy import ledger_lines

    ledgers: dict[str, list[LedgerLine]] = {}
    for part in rest:
        lines = ledger_lines.parse_lines(verify_lines(part.splitlines(), f"{path}, ledger"))
        if lines and ledgers.setdefault(lines[0].chain, lines) is not lines:
            raise LedgerDamaged(f"{path} has two ledgers of dataset {lines[0].chain!r}")
    return parse_lines(verify_lines(record.splitlines(), str(path))), ledgers


def _entry(text: str) -> tuple[str, str]:
    """Return a line and its hash; ("", ""), which no chain accepts, where it cannot be read."""
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
            "sha256": tensor_hash(tensor),
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        for name, tensor in sorted(state.items())
    }
    return {"bytes": size_in_bytes(state), "tensors": rows}


def tensor_hash(tensor: "Tensor") -> str:
    """Return the SHA-256 of the tensor's bytes, in row-major order."""
    import torch

    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return sha256(plain.tobytes()).hexdigest()
