"""Who may connect: names, public keys, and the node that Flower knows each of them by."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fedtl._util.files import write_bytes
from fedtl.errors import ConfigError


@dataclass(frozen=True)
class Admitted:
    """``node`` 0: Flower has not been told yet."""

    key: str
    node: int = 0


def admitted(folder: Path) -> dict[str, Admitted]:
    path = folder / "admitted.json"
    try:
        return {name: Admitted(**row) for name, row in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def keep(folder: Path, rows: Mapping[str, Admitted]) -> None:
    text = json.dumps({name: asdict(row) for name, row in sorted(rows.items())}, indent=1) + "\n"
    write_bytes(folder / "admitted.json", text.encode(), private=True)


def add(folder: Path, name: str, key: str) -> None:
    """Raises ConfigError for a name or a key that is there already."""
    rows = admitted(folder)
    if name in rows:
        raise ConfigError(
            f"{name!r} is admitted already; names are unique: fedtl server expel {folder} {name}, or another"
        )
    for other, row in rows.items():
        if row.key == key:
            raise ConfigError(f"this key is {other!r}'s already; every site makes its own")
    keep(folder, {**rows, name: Admitted(key)})


def nodes(folder: Path) -> dict[str, int]:
    """Flower's node of each name."""
    return {name: row.node for name, row in admitted(folder).items() if row.node}
