"""``backup`` and ``restore`` of ``fedtl silo`` and ``fedtl server``, and what has a site's updates: ``fedtl server rounds|withdraw``."""

from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.options import Dir, Json, open_home
from fedtl.cli.screen import print_json, print_line, say

File = Annotated[Path, typer.Argument(metavar="FILE")]
SECRET = "it holds private keys and is not encrypted: keep it where only you can read it"


def back_up_silo(folder: Dir, file: File) -> None:
    """
    Write the institution's folder DIR into the new file FILE: settings, keys, ledger, record, state and approvals, not the rows.

    Files of DIR that silo.toml names are in it, too. It works while the site runs. key_file is not in it: keep that apart.

    Example: fedtl silo backup clinic clinic-2026-11-26.backup
    """
    from fedtl._util.files import folder_is_locked
    from fedtl.deployment.site.backup import back_up_site

    home = open_home(folder)
    if folder_is_locked(home.path):
        say("the site is working on a round; the backup starts when the round has ended")
    left_out = back_up_site(home, file)
    say(f"wrote {file}; {SECRET}")
    for reason in left_out:
        say(f"not in it: {reason}; keep a copy of this file")


def restore_silo(
    folder: Dir,
    file: File,
    seen: Annotated[
        Path | None,
        typer.Option(metavar="ROUNDS", help="the rounds of this site, which fedtl server rounds wrote"),
    ] = None,
) -> None:
    """
    Restore the backup FILE as the institution's folder DIR. What DIR held is renamed.

    Exit code 3: the backup is older than what DIR, or ROUNDS, shows, so it may have forgotten spent privacy budget.

    Example: fedtl silo restore clinic clinic-2026-11-26.backup --seen rounds.json
    """
    from fedtl.deployment.site.backup import restore_site

    restored = restore_site(folder, file, seen)
    _say_restored(folder, restored.contents.at, restored.replaced)
    say(f"then: fedtl silo check {folder}")


def back_up_server(folder: Dir, file: File) -> None:
    """
    Write the coordinator's folder DIR into the new file FILE: settings, keys, admitted sites, bundles and studies.

    It works while the server runs. Flower's database is not in it: the server registers the sites anew.

    Example: fedtl server backup srv srv-2026-11-26.backup
    """
    from fedtl.deployment.coordinator.backup import back_up_server as back_up

    back_up(folder, file)
    say(f"wrote {file}; {SECRET}")


def restore_server(folder: Dir, file: File) -> None:
    """
    Restore the backup FILE as the coordinator's folder DIR. What DIR held is renamed.

    Exit code 3: the backup lacks rounds of a study, or an expulsion, that DIR has.

    Example: fedtl server restore srv srv-2026-11-26.backup
    """
    from fedtl.deployment.coordinator.backup import restore_server as restore

    restored = restore(folder, file)
    _say_restored(folder, restored.contents.at, restored.replaced)
    say("the backup admits sites again that were expelled after it was made; see: fedtl server status")


def _say_restored(folder: Path, at: str, replaced: Path | None) -> None:
    say(
        f"restored {folder} as it was at {at}"
        + (f"; its former content is in {replaced}" if replaced else "")
    )


def rounds(
    folder: Dir,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    out: Annotated[
        Path | None, typer.Option(help="write them to this file, for the site's restore and for verify")
    ] = None,
    as_json: Json = False,
) -> None:
    """
    Print in which rounds of each study the site NAME took part, or was asked.

    The site needs the file of --out to restore a backup; fedtl silo verify --seen compares a record with it. After a withdrawal the list shows which results have its updates.

    Example: fedtl server rounds srv clinic --out clinic-rounds.json
    """
    from fedtl._util.files import write_json
    from fedtl.deployment.coordinator.settings import load_server_settings
    from fedtl.deployment.coordinator.site_rounds import site_rounds

    load_server_settings(folder)
    found = site_rounds(folder, name)
    if out is not None:
        write_json(out, found)
        say(f"wrote {out}; send it to the site")
    if as_json:
        print_json(found)
        return
    for study, one in found.studies.items():
        asked = f"; asked without a valid reply: {_listed(one.asked)}" if one.asked else ""
        print_line(f"study {study}: counted in rounds {_listed(one.counted)}{asked}; last: {one.last}")
    if not found.studies:
        print_line(f"site {name} took part in no study")


def withdraw(
    folder: Dir, name: Annotated[str, typer.Argument(metavar="NAME")], as_json: Json = False
) -> None:
    """
    Withdraw the site NAME: it is suspended, and for each study with its updates a study without them is prepared.

    Such a study begins at the last state before the site's first update and does the later rounds again. The other sites have to
    approve it, and private ones pay for it, as for any study. What was computed already, and given away, keeps the site's updates.

    Example: fedtl server withdraw srv clinic
    """
    from fedtl.deployment.coordinator.settings import load_server_settings
    from fedtl.deployment.coordinator.withdrawal import withdraw_site

    load_server_settings(folder)
    found = withdraw_site(folder, name)
    if as_json:
        print_json(found)
        return
    print_line(
        f"{name} is not asked any more; to shut its key out as well: fedtl server expel {folder} {name}"
    )
    for one in found:
        print_line(f"study {one.study}: its updates counted in rounds {_listed(one.counted)}")
        if one.running:
            print_line(f"  it has not ended; stop it: fedtl server stop {folder} --study {one.study}")
        if one.after is None:
            state = f"the state before round {one.counted[0]} was not kept, so the study cannot continue from there; train anew"
            print_line(f"  {state}: fedtl server start {folder} {one.bundle} --study {one.name}")
        else:
            begin = f"after round {one.after} of it" if one.after else "from the first round on"
            print_line(f"  without it, {begin}: fedtl server start {folder} {one.bundle} --study {one.name}")
    if not found:
        print_line("no study has its updates")


def _listed(numbers: object) -> str:
    return ", ".join(map(str, numbers)) if isinstance(numbers, list | tuple) and numbers else "none"
