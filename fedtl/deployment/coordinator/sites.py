"""Admits sites and expels them: the list of admitted keys, and their registration with the SuperLink."""

from dataclasses import replace
from pathlib import Path

from fedtl._util.files import write_bytes
from fedtl.data.plain_names import SILO_NAME
from fedtl.deployment.coordinator.admitted import add_site, read_admitted, write_admitted
from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.coordinator.superlink import CONNECTION, flwr, is_healthy
from fedtl.deployment.site.keys import read_public_key
from fedtl.errors import ConfigError


def admit_site(folder: Path, key_file: Path, name: str) -> bool:
    """
    Admit a site by its public key. ``name`` "": the comment in the key's file. Returns whether the SuperLink runs and
    has the key; otherwise the key is registered when the server starts. Raises ConfigError.
    """
    load_server_settings(folder)
    if not name:
        words = key_file.read_text(errors="replace").split()
        name = words[2] if len(words) > 2 else ""
    add_site(folder, check_name(name), read_public_key(key_file))
    running = is_healthy(folder)
    if running:
        register_sites(folder)
    return running


def expel_site(folder: Path, name: str) -> None:
    """Remove a site, whose key can no longer connect. Raises ConfigError."""
    sites = read_admitted(folder)
    if name not in sites:
        raise ConfigError(f"site {name!r} is not admitted; admitted: {', '.join(sites) or 'none'}")
    if sites[name].node:
        if not is_healthy(folder):
            raise ConfigError(
                f"the SuperLink must run to unregister {name!r}; start it: fedtl server run {folder}"
            )
        flwr(folder, "supernode", "unregister", str(sites[name].node), CONNECTION)
    write_admitted(folder, {other: site for other, site in sites.items() if other != name})


def register_sites(folder: Path) -> None:
    """Register the key of every admitted site that the SuperLink does not know yet."""
    sites = read_admitted(folder)
    for name, site in sites.items():
        if not site.node:
            file = folder / "flwr" / "admit.pub"
            write_bytes(file, f"{site.key} {name}\n".encode())
            reply = flwr(folder, "supernode", "register", str(file), CONNECTION, "--name", name)
            file.unlink()
            sites[name] = replace(site, node=int(reply["node-id"]))
            write_admitted(folder, sites)


def check_name(name: str) -> str:
    """Return the name of a site or a study. Raises ConfigError where it is not one."""
    if not SILO_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a valid name: use letters, digits and . _ + -, at most 64, a letter or digit first"
        )
    return name
