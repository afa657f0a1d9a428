"""
``approved.json``: the bundles that the steward approved, by their hash. Each entry has the hashes of the plan,
of what may leave, of the fedtl that was installed, and of the signed terms; the egress record holds these terms in full. A
list that is empty, missing or unreadable approves nothing.
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import fedtl
from fedtl._util.files import write_json
from fedtl.errors import ConfigError

HASH = re.compile(r"[0-9a-f]{64}")
MAX_LIST_BYTES = 16 << 20


@dataclass(frozen=True)
class Approval:
    """SHA-256 hashes in hex. ``manifest``: of what may leave in each round. ``terms``: of the ``SignedTerms``."""

    bundle: str
    plan: str
    manifest: str
    code: str
    terms: str


def code_hash() -> str:
    """Return a hash of every file of the installed fedtl that is code, a template or settings."""
    root = Path(fedtl.__file__).parent
    digest = sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".j2", ".toml") and path.is_file():
            digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def read_approvals(path: Path) -> list[Approval]:
    """Return the approvals in the file; none at all where any entry is malformed."""
    entries = [_approval(entry) for entry in _entries(path)]
    return [] if None in entries else [entry for entry in entries if entry is not None]


def bundles_approved_without_terms(path: Path) -> list[str]:
    """Return the bundles that were approved with a fedtl that did not sign terms yet."""
    keys = {field.name for field in fields(Approval)} - {"terms"}
    return [
        str(entry["bundle"]) for entry in _entries(path) if isinstance(entry, dict) and entry.keys() == keys
    ]


def _entries(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            return []
        entries = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return entries if isinstance(entries, list) else []


def _approval(entry: Any) -> Approval | None:
    try:
        approval = Approval(**entry)
        return approval if all(HASH.fullmatch(value) for value in asdict(approval).values()) else None
    except TypeError:
        return None


def add_approval(path: Path, approval: Approval) -> None:
    """Add an approval. It replaces an earlier approval of the same bundle."""
    _write(path, [*_without(path, approval.bundle), approval])


def withdraw_approval(path: Path, bundle: str) -> None:
    """Remove an approval. Raises ConfigError for a bundle that is not approved."""
    approvals = read_approvals(path)
    if all(approval.bundle != bundle for approval in approvals):
        names = ", ".join(approval.bundle[:12] for approval in approvals) or "none"
        raise ConfigError(f"bundle {bundle[:12]} is not approved; approved: {names}")
    _write(path, _without(path, bundle))


def _without(path: Path, bundle: str) -> list[Approval]:
    return [approval for approval in read_approvals(path) if approval.bundle != bundle]


def _write(path: Path, approvals: list[Approval]) -> None:
    write_json(path, approvals, private=True)


def is_approved(path: Path, bundle: str) -> bool:
    """Whether a bundle with this hash may run here."""
    return any(approval.bundle == bundle for approval in read_approvals(path))
