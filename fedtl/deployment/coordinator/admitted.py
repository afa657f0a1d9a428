"""``admitted.json``: the sites that may connect, each with its public key and the id of its Flower node."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedtl._util.files import write_json
from fedtl.errors import ConfigError


@dataclass(frozen=True)
class AdmittedSite:
    """``node``: Flower's node id; 0 until the key is registered with the SuperLink."""

    key: str
    node: int = 0


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


def add_site(folder: Path, name: str, key: str) -> None:
    """Admit a site. Raises ConfigError where the name or the key is admitted already."""
    sites = read_admitted(folder)
    if name in sites:
        raise ConfigError(
            f"site {name!r} is admitted already; choose another --name, or first: fedtl server expel {folder} {name}"
        )
    for other, site in sites.items():
        if site.key == key:
            raise ConfigError(
                f"this key is admitted already, as {other!r}; every site needs a key of its own"
            )
    write_admitted(folder, {**sites, name: AdmittedSite(key)})


def node_ids(folder: Path) -> dict[str, int]:
    """Return Flower's node id of each site whose key is registered."""
    return {name: site.node for name, site in read_admitted(folder).items() if site.node}
