"""
``admitted.json``: the sites that may connect, each with its public key and the id of its Flower node. ``expelled.json``: the keys
that were expelled, which Flower never accepts again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedtl._util.files import write_json
from fedtl.errors import ConfigError


@dataclass(frozen=True)
class AdmittedSite:
    """
    ``node``: Flower's node id; 0 until the key is registered with the SuperLink. ``suspended``: the site is not asked for updates.
    ``problem``: why the SuperLink refuses its key, or "".
    """

    key: str
    node: int = 0
    suspended: bool = False
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"not registered: {self.problem}"
        if not self.node:
            return "waits for the server to run"
        return "suspended" if self.suspended else "registered"


def read_admitted(folder: Path) -> dict[str, AdmittedSite]:
    """Return the admitted sites by name; none where there is no file. Raises ConfigError."""
    path = folder / "admitted.json"
    try:
        return {name: AdmittedSite(**site) for name, site in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; restore it from a backup") from error


def write_admitted(folder: Path, sites: Mapping[str, AdmittedSite]) -> None:
    write_json(folder / "admitted.json", dict(sorted(sites.items())), private=True)


def read_expelled(folder: Path) -> dict[str, str]:
    """Return the expelled keys, each with the name that its site had. Raises ConfigError."""
    path = folder / "expelled.json"
    try:
        return {str(key): str(name) for key, name in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; restore it from a backup") from error


def note_expelled(folder: Path, key: str, name: str) -> None:
    write_json(folder / "expelled.json", {**read_expelled(folder), key: name}, private=True)


def check_new(folder: Path, name: str, key: str) -> None:
    """Raise ConfigError where the name or the key is admitted already, or where the key was expelled."""
    if name in read_admitted(folder):
        raise ConfigError(
            f"site {name!r} is admitted already; choose another --name, or replace its key: fedtl server rotate {folder} {name} NEW.pub"
        )
    check_key(folder, key)


def check_key(folder: Path, key: str) -> None:
    """Raise ConfigError where the key is admitted already, or was expelled."""
    for other, site in read_admitted(folder).items():
        if site.key == key:
            raise ConfigError(
                f"this key is admitted already, as {other!r}; every site needs a key of its own"
            )
    if former := read_expelled(folder).get(key):
        raise ConfigError(expelled_message(former))


def expelled_message(name: str) -> str:
    return (
        f"the key of {name!r} was expelled, and Flower never accepts an expelled key again; the site needs a new key: "
        "fedtl silo init in another folder (next time, pause a site with: fedtl server suspend)"
    )


def member_nodes(folder: Path) -> frozenset[int]:
    """Return Flower's node id of each site that was not expelled, the suspended ones included: a reply on its way still counts."""
    return frozenset(site.node for site in read_admitted(folder).values())


def node_ids(folder: Path) -> dict[str, int]:
    """Return Flower's node id of each site that may be asked: its key is registered, and it is not suspended."""
    return {
        name: site.node for name, site in read_admitted(folder).items() if site.node and not site.suspended
    }
