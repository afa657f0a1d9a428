"""
What the steward has signed: bundles by their hash, each with its plan's hash, what may leave under it, and the hash of
the fedtl that would run it. An empty, missing or unreadable list approves nothing.
"""

import json
import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import fedtl
from fedtl.durable import write_bytes
from fedtl.errors import ConfigError, Denied
from fedtl.policy import Code, Manifest

HASH = re.compile(r"[0-9a-f]{64}")
LARGEST = 16 << 20  # bytes of the list


@dataclass(frozen=True)
class Approval:
    """Hashes in hex. ``manifest``: of what may leave each round."""

    bundle: str
    plan: str
    manifest: str
    code: str


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
    try:
        if path.stat().st_size > LARGEST:
            return []
        rows = json.loads(path.read_text())
        found = [Approval(**row) for row in rows]
        sound = all(HASH.fullmatch(value) for row in found for value in asdict(row).values())
        return found if sound else []
    except (OSError, ValueError, TypeError):
        return []


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


def check_plan(path: Path, plan: str, manifest: Manifest) -> Approval:
    """The approval that a plan runs under. Raises Denied: another plan, another manifest, or another fedtl."""
    rows = [row for row in approvals(path) if row.plan == plan]
    if not rows:
        raise Denied(Code.PLAN, f"plan {plan[:12]} is not approved; fedtl silo rehearse, then approve")
    for row in rows:
        if (row.manifest, row.code) == (manifest.hash, code_hash()):
            return row
    what = "manifest" if rows[-1].manifest != manifest.hash else "fedtl"
    raise Denied(
        Code.PLAN,
        f"plan {plan[:12]} was approved with another {what} than is here now; rehearse and approve again",
    )
