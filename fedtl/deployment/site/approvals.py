"""
What the steward has signed: bundles by their hash, each with its plan's hash, what may leave under it, the hash of
the fedtl that would run it, and the hash of the signed terms, which stand whole in the egress record. An empty, missing
or unreadable list approves nothing.
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import fedtl
from fedtl._util.files import write_bytes
from fedtl.errors import ConfigError

HASH = re.compile(r"[0-9a-f]{64}")
LARGEST = 16 << 20  # bytes of the list


@dataclass(frozen=True)
class Approval:
    """Hashes in hex. ``manifest``: of what may leave each round; ``terms``: of the ``SignedTerms``."""

    bundle: str
    plan: str
    manifest: str
    code: str
    terms: str


def code_hash() -> str:
    """Of every file of the installed fedtl that is code or a template."""
    root = Path(fedtl.__file__).parent
    digest = sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".j2", ".toml") and path.is_file():
            digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def approvals(path: Path) -> list[Approval]:
    """Those in the file; none where it cannot be read or holds anything else."""
    found = [_approval(row) for row in _rows(path)]
    return [] if None in found else [one for one in found if one is not None]


def earlier(path: Path) -> list[str]:
    """The bundles in the file that were approved with a fedtl that signed no terms."""
    keys = {field.name for field in fields(Approval)} - {"terms"}
    return [str(row["bundle"]) for row in _rows(path) if isinstance(row, dict) and row.keys() == keys]


def _rows(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > LARGEST:
            return []
        rows = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return rows if isinstance(rows, list) else []


def _approval(row: Any) -> Approval | None:
    try:
        one = Approval(**row)
        return one if all(HASH.fullmatch(value) for value in asdict(one).values()) else None
    except TypeError:
        return None


def approve(path: Path, one: Approval) -> None:
    """In place of an earlier approval of the same bundle."""
    rows = [asdict(row) for row in approvals(path) if row.bundle != one.bundle] + [asdict(one)]
    write_bytes(path, (json.dumps(rows, indent=1) + "\n").encode(), private=True)


def withdraw(path: Path, bundle: str) -> None:
    """Raises ConfigError for a bundle that was not approved."""
    rows = approvals(path)
    if all(row.bundle != bundle for row in rows):
        raise ConfigError(
            f"{bundle[:12]} is not approved; there are {', '.join(r.bundle[:12] for r in rows)}"
        )
    kept: list[dict[str, Any]] = [asdict(row) for row in rows if row.bundle != bundle]
    write_bytes(path, (json.dumps(kept, indent=1) + "\n").encode(), private=True)


def permitted(path: Path, bundle: str) -> bool:
    """Whether a bundle may run here at all."""
    return any(row.bundle == bundle for row in approvals(path))
