"""
Backs the coordinator's folder up and restores it. Flower's database is not in a backup: it keeps updates of sites in free pages, and
``fedtl server run`` registers the sites anew without it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from fedtl._util.files import lock_folder
from fedtl.deployment.archive import (
    BackupContents,
    files_below,
    replace_folder,
    unpack_backup,
    write_backup,
)
from fedtl.deployment.coordinator.admitted import read_admitted, read_expelled
from fedtl.deployment.coordinator.server import PARTS, write_configuration
from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.running import only_one
from fedtl.errors import ConfigError, Refused

NAMES = ("server.toml", "tls", "exec.secret", "admitted.json", "expelled.json", "bundles", "studies")


def back_up_server(folder: Path, out: Path) -> BackupContents:
    """
    Write a backup of the coordinator's folder. It waits for no round: a checkpoint is written before its backup or after, never
    in part. Raises ConfigError where ``out`` exists.
    """
    contents = BackupContents("server", load_server_settings(folder).host)
    with lock_folder(folder):  # while sites are admitted
        write_backup(out, contents, files_below(folder, NAMES))
    return contents


@dataclass(frozen=True)
class RestoredServer:
    """``replaced``: where the folder's former content is now; None where it had none."""

    contents: BackupContents
    replaced: Path | None


def restore_server(folder: Path, file: Path) -> RestoredServer:
    """
    Restore a backup as ``folder``; what was there is renamed. Raises ConfigError, and Refused where the backup lacks a round that sites
    have paid for, or an expulsion, that the folder has.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / "server.toml").is_file():
        raise ConfigError(f"{folder} is not the folder of a coordinator; choose a new folder")
    new = folder.with_name(f".{folder.name}.restoring")
    if new.exists():
        raise ConfigError(f"{new} is left from a restore that did not finish; remove it")
    try:
        contents = unpack_backup(file, "server", NAMES, new)
        load_server_settings(new)
        read_admitted(new)
        _drop_later_lines(new)
        if (folder / "server.toml").is_file():
            _check_nothing_forgotten(folder, new, file)
            with only_one(folder, PARTS, "fedtl server run"):
                replaced = replace_folder(folder, new)
        else:
            replaced = replace_folder(folder, new)
        write_configuration(folder)
        return RestoredServer(contents, replaced)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _drop_later_lines(folder: Path) -> None:
    """Drop the lines of rounds that ended while the backup was made: between its copy of a checkpoint and that of the history."""
    for path in sorted((folder / "studies").glob("*/plan.json")):
        log = HostedStudy(path.parent).log
        if log.has_checkpoint:
            log.resume()


def _check_nothing_forgotten(folder: Path, new: Path, file: Path) -> None:
    for path in sorted((folder / "studies").glob("*/plan.json")):
        study, copy = HostedStudy(path.parent), HostedStudy(new / "studies" / path.parent.name)
        rounds, kept = study.log.length, len(copy.log.lines()) if copy.path.is_dir() else 0
        if rounds > kept or (rounds and _is_other_study(study, copy)):
            raise Refused(
                f"{file} has {kept} rounds of study {path.parent.name!r}, and {folder} has {rounds}: sites were charged for these rounds and "
                f"will not send them again; restore a later backup, or rename {folder} to give these rounds up"
            )
    try:
        expelled = read_expelled(folder)
    except ConfigError as error:
        raise Refused(
            f"{folder / 'expelled.json'} cannot be read, so {file} may admit an expelled site again; rename {folder}, restore, and "
            "expel it again"
        ) from error
    if lost := expelled.keys() - read_expelled(new).keys():
        name = expelled[sorted(lost)[0]]
        raise Refused(
            f"{file} was made before {name!r} was expelled, and would admit it again; restore a later backup, or rename {folder} and "
            "expel it again"
        )


def _is_other_study(study: HostedStudy, copy: HostedStudy) -> bool:
    """Whether the backup has another study of this name. Where the plan is damaged, nothing shows it: the backup may be to restore it."""
    plan = copy.plan
    try:
        return not study.plan.is_same_study(plan)
    except ConfigError:
        return False
