"""Admits, suspends and expels sites: the list of admitted keys, and their registration with the SuperLink."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedtl._util.files import lock_folder
from fedtl.data.plain_names import MAX_NAME, SILO_NAME
from fedtl.deployment.coordinator.admitted import (
    AdmittedSite,
    check_key,
    check_new,
    expelled_message,
    note_expelled,
    read_admitted,
    write_admitted,
)
from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.coordinator.superlink import FlowerNode, NoAnswer, SuperLink
from fedtl.deployment.site.keys import public_key_pem, read_public_key
from fedtl.errors import ConfigError

log = logging.getLogger(__name__)


def admit_site(folder: Path, key_file: Path, name: str) -> AdmittedSite:
    """
    Admit a site by its public key. ``name`` "": the comment in the key's file. Where the SuperLink runs, the key is registered
    at once; otherwise when the server starts. Raises ConfigError, and then writes nothing.
    """
    load_server_settings(folder)
    key = read_public_key(key_file)
    if not name:
        words = key_file.read_text(errors="replace").split()
        name = words[2] if len(words) > 2 else ""
    check_name(name)
    with lock_folder(folder):
        check_new(folder, name, key)
        site, link = AdmittedSite(key), SuperLink(folder)
        if link.healthy:
            site = replace(site, node=_register(link, link.nodes(), name, key))
        write_admitted(folder, {**read_admitted(folder), name: site})
    return site


def suspend_site(folder: Path, name: str, suspended: bool) -> None:
    """Do not ask a site for updates from the next round on, or ask it again. Its key stays valid. Raises ConfigError."""
    with lock_folder(folder):
        sites = read_admitted(folder)
        site = _find(sites, name)
        if site.suspended == suspended:
            raise ConfigError(f"site {name!r} is {'suspended already' if suspended else 'not suspended'}")
        write_admitted(folder, {**sites, name: replace(site, suspended=suspended)})


def expel_site(folder: Path, name: str) -> None:
    """Remove a site, whose key can never connect again. Raises ConfigError."""
    with lock_folder(folder):
        sites = read_admitted(folder)
        site, link = _find(sites, name), SuperLink(folder)
        if site.node and not link.healthy:
            raise ConfigError(
                f"the SuperLink must run to unregister {name!r}; start it: fedtl server run {folder}"
            )
        known = link.nodes().get(public_key_pem(site.key)) if site.node else None
        note_expelled(
            folder, site.key, name
        )  # first, so that a crash leaves no key that can be admitted again
        if known and not known.expelled:
            link.unregister(known.node)
        write_admitted(folder, {other: row for other, row in sites.items() if other != name})


def replace_key(folder: Path, name: str, key_file: Path) -> AdmittedSite:
    """
    Expel the key of a site, and admit another one under its name. Raises ConfigError, and then writes nothing, where the new key cannot be
    admitted or the SuperLink does not run.
    """
    key, sites = read_public_key(key_file), read_admitted(folder)
    former = _find(sites, name)
    check_key(folder, key)
    expel_site(folder, name)
    site = admit_site(folder, key_file, name)
    if former.suspended:
        suspend_site(folder, name, True)
    return site


def register_sites(folder: Path) -> None:
    """
    Register the key of every admitted site that the SuperLink does not know, also after its database was lost. A key that it
    refuses is logged and noted in its row, and the others are registered all the same. Raises NoAnswer, and then changes no row.
    """
    with lock_folder(folder):
        before, link = read_admitted(folder), SuperLink(folder)
        sites, nodes = dict(before), link.nodes()
        for name, site in before.items():
            try:
                sites[name] = replace(site, node=_register(link, nodes, name, site.key), problem="")
            except NoAnswer:
                raise
            except ConfigError as error:
                log.error("site %s cannot take part: %s", name, error)
                sites[name] = replace(site, node=0, problem=str(error))
        if sites != before:
            write_admitted(folder, sites)


def _register(link: SuperLink, nodes: Mapping[bytes, FlowerNode], name: str, key: str) -> int:
    """Return the id of the node with this key, registered now or before. Raises ConfigError for a key that is refused."""
    known = nodes.get(public_key_pem(key))
    if known and known.expelled:
        raise ConfigError(expelled_message(name))
    return known.node if known else link.register(key, name)


def _find(sites: Mapping[str, AdmittedSite], name: str) -> AdmittedSite:
    if name not in sites:
        raise ConfigError(f"site {name!r} is not admitted; admitted: {', '.join(sites) or 'none'}")
    return sites[name]


def check_name(name: str) -> str:
    """Return the name of a site or a study. Raises ConfigError where it is not one."""
    if not SILO_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a valid name: use letters, digits and . _ + -, at most {MAX_NAME}, a letter or digit first"
        )
    return name
