"""Letting sites in and out: the list of admitted keys, and what Flower is told of it."""

from dataclasses import replace
from pathlib import Path

from fedtl._util.files import write_bytes
from fedtl.data.prepare import SILO_NAME
from fedtl.deployment.coordinator import admitted
from fedtl.deployment.coordinator.settings import load
from fedtl.deployment.coordinator.superlink import CONNECTION, flwr, healthy
from fedtl.deployment.site.keys import public_key
from fedtl.errors import ConfigError


def admit(folder: Path, key_file: Path, name: str) -> bool:
    """Whether the SuperLink knows it already; otherwise it is told when it runs. Raises ConfigError."""
    load(folder)
    if not name:
        words = key_file.read_text(errors="replace").split()
        name = words[2] if len(words) > 2 else ""
    admitted.add(folder, named(name), public_key(key_file))
    return healthy(folder) and tell(folder)


def expel(folder: Path, name: str) -> None:
    """Its key connects no more. Raises ConfigError."""
    rows = admitted.admitted(folder)
    if name not in rows:
        raise ConfigError(f"{name!r} is not admitted; there are {', '.join(rows) or 'none'}")
    if rows[name].node:
        if not healthy(folder):
            raise ConfigError(f"the SuperLink has to run, to be told: fedtl server run {folder}")
        flwr(folder, "supernode", "unregister", str(rows[name].node), CONNECTION)
    admitted.keep(folder, {key: row for key, row in rows.items() if key != name})


def tell(folder: Path) -> bool:
    """Register the keys that Flower does not know yet."""
    rows = admitted.admitted(folder)
    for name, row in rows.items():
        if not row.node:
            file = folder / "flwr" / "admit.pub"
            write_bytes(file, f"{row.key} {name}\n".encode())
            told = flwr(folder, "supernode", "register", str(file), CONNECTION, "--name", name)
            file.unlink()
            rows[name] = replace(row, node=int(told["node-id"]))
            admitted.keep(folder, rows)
    return True


def named(name: str) -> str:
    if not SILO_NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: letters, digits and . _ + -, 64 at most")
    return name
