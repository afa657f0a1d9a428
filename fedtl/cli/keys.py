"""New keys and certificates: of the coordinator, and of an institution."""

from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.options import Dir, open_home
from fedtl.cli.screen import say
from fedtl.errors import ConfigError

TELEPHONE = "to compare by telephone"


def renew(
    folder: Dir,
    authority: Annotated[
        bool,
        typer.Option("--authority", help="create the next certificate authority, for sites to trust first"),
    ] = False,
    switch: Annotated[
        bool, typer.Option("--switch", help="use the next certificate authority, once every site trusts it")
    ] = False,
) -> None:
    """
    Create a new certificate of the server, signed by the same authority. Restart the server afterwards.

    A new authority takes two steps, so that no site is cut off: --authority, then --switch.

    Example: fedtl server renew srv
    """
    from fedtl.deployment import certificates
    from fedtl.deployment.coordinator.settings import load_server_settings

    host, tls = load_server_settings(folder).host, folder / "tls"
    if authority and switch:
        raise ConfigError(
            "--authority and --switch are two steps; every site must trust the new ca.crt before the second"
        )
    if authority:
        new = certificates.renew_authority(tls, host)
        say(
            f"created {new}; every site runs: fedtl silo trust DIR ca.crt; then: fedtl server renew {folder} --switch"
        )
        say(f"its fingerprint, {TELEPHONE}: {certificates.certificate_fingerprint(new)}")
        return
    if switch:
        certificates.switch_authority(tls)
        say("the new authority is used from the next start on; store tls/ca.key on another machine")
    else:
        certificates.create_server_certificate(tls, host)
        say(f"created {tls / 'server.pem'}")
    say(f"restart: fedtl server stop {folder}, then fedtl server run {folder}")


def rotate_site(
    folder: Dir,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    key: Annotated[Path, typer.Argument(metavar="NEW.pub")],
) -> None:
    """
    Expel the key of the site NAME and admit its new one, NEW.pub, under the same name. Studies continue.

    Example: fedtl server rotate srv clinic clinic-new.pub
    """
    from fedtl.deployment.coordinator.sites import replace_key
    from fedtl.deployment.site.keys import fingerprint

    site = replace_key(folder, name, key)
    say(f"{name} has a new key; its fingerprint, {TELEPHONE}: {fingerprint(site.key)}")


def rotate_own(folder: Dir) -> None:
    """
    Create a new node key; the former one is kept as node.key.old. Restart the site once the coordinator has admitted it.

    Example: fedtl silo rotate clinic
    """
    from fedtl.deployment.site.keys import fingerprint, replace_node_key

    home = open_home(folder)
    key = replace_node_key(home.path / "node.key", home.settings.name)
    say(f"created {home.path / 'node.key'}; its fingerprint, {TELEPHONE}: {fingerprint(key)}")
    say(
        f"send node.key.pub to the coordinator, who runs: fedtl server rotate DIR {home.settings.name} node.key.pub"
    )
    say(f"then restart the site, and remove {home.path / 'node.key.old'}")


def trust(
    folder: Dir,
    certificate: Annotated[Path, typer.Argument(metavar="CA.crt")],
    only: Annotated[
        bool, typer.Option("--only", help="trust no other one, such as the former authority")
    ] = False,
) -> None:
    """
    Trust the coordinator's certificate authority CA.crt, besides the one that is trusted already.

    Compare the fingerprint with the coordinator's by telephone. Restart the site afterwards.

    Example: fedtl silo trust clinic ca.crt
    """
    from fedtl.deployment import certificates

    home = open_home(folder)
    path = home.at(home.settings.certificate)
    certificates.trust(path, certificate, only)
    say(f"{path} trusts the authority with the fingerprint {certificates.certificate_fingerprint(path)}")
