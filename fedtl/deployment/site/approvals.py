"""
``approved.json``: the bundles that the steward approved, by their hash. Each entry has the hashes of the plan,
of what may leave, of the fedtl that was installed, and of the signed terms; the egress record holds these terms in full. A
list that is empty, missing or unreadable approves nothing.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
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


@dataclass(frozen=True)
class CodeFile:
    """A file of fedtl. Nothing but the kernel sets ``changed``, its ctime in ns, so a file that was written again differs."""

    path: str
    size: int
    inode: int
    changed: int


def code_files() -> tuple[CodeFile, ...]:
    """Return every file of the installed fedtl that is code, a template or settings, as they are on the disk now."""
    root, found = Path(fedtl.__file__).parent, []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.suffix in (".py", ".j2", ".toml") and path.is_file():
                facts = path.stat()
                path_in_fedtl = path.relative_to(root).as_posix()
                found.append(CodeFile(path_in_fedtl, facts.st_size, facts.st_ino, facts.st_ctime_ns))
    return tuple(sorted(found, key=lambda file: file.path.split("/")))


def code_hash() -> str:
    """Return a hash of these files. They are read again where one of them was written since."""
    return _hash_of(code_files())


@lru_cache(maxsize=1)
def _hash_of(files: tuple[CodeFile, ...]) -> str:
    digest = sha256()
    for file in files:
        digest.update(f"{file.path} {file.size}\n".encode())
        digest.update((Path(fedtl.__file__).parent / file.path).read_bytes())
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
