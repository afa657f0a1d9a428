"""
Backs a site's folder up and restores it. A restore never forgets spent budget: it is refused where the ledger or the record of the backup
lacks lines that the folder has, or rounds that the coordinator asked for.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fedtl.deployment.archive import (
    BackupContents,
    files_below,
    read_backed_up,
    replace_folder,
    unpack_backup,
    write_backup,
)
from fedtl.deployment.running import only_one
from fedtl.deployment.site.egress_lines import RoundRefused, TaskReceived
from fedtl.deployment.site.home import LOG_FILES, SECRET_FILES, Home
from fedtl.deployment.site.named_files import files_to_back_up, paths_named_in
from fedtl.deployment.site.paid import missing_entries
from fedtl.deployment.site.run import PARTS
from fedtl.deployment.site.seen_rounds import SeenRounds, read_seen_rounds
from fedtl.errors import ConfigError, LedgerDamaged, Refused
from fedtl.privacy.chain_copies import ChainEnds, chain_ends, copy_chains, forgotten
from fedtl.privacy.hash_chain import HashChainFile

CHAINS = ("ledger.sqlite", "record.sqlite")
CHAIN_FILES = tuple(f"{name}{end}" for name in CHAINS for end in ("", ".tip"))
PLAIN = ("silo.toml", "node.key.pub", "ca.crt", "approved.json", "state", "rehearsed", *LOG_FILES)
NAMES = (*PLAIN, *SECRET_FILES, *CHAIN_FILES)
OTHER_COPY = (
    "it may lack private updates that have left, and then their budget would be spent a second time; restore a later backup. Without one it is "
    "unknown what was spent on these rows, and no private round may use them again"
)


def back_up_site(home: Home, out: Path) -> tuple[str, ...]:
    """
    Write a backup of the site's folder, without its rows and without ``key_file``, and return a sentence for each other file that
    silo.toml names and that is not in the backup. It waits for a round to end. Raises ConfigError where ``out`` exists, and LedgerDamaged
    where the ledger or the record is broken.
    """
    contents = BackupContents("silo", home.settings.name)
    with home.alone(), TemporaryDirectory(dir=home.path, prefix=".backup-") as work:
        copies = [
            copy for name in CHAINS for copy in copy_chains(HashChainFile(home.path / name), Path(work))
        ]
        named, left_out = files_to_back_up(home)
        files = {**named, **files_below(home.path, (*PLAIN, *SECRET_FILES))}
        write_backup(out, contents, {**files, **{copy.name: copy for copy in copies}})
    return left_out


@dataclass(frozen=True)
class RestoredSite:
    """``replaced``: where the folder's former content is now; None where it had none."""

    contents: BackupContents
    replaced: Path | None


def restore_site(folder: Path, file: Path, seen: Path | None) -> RestoredSite:
    """
    Restore a backup as ``folder``; what was there is renamed. ``seen``: the rounds of the site, as ``fedtl server rounds`` wrote them.
    Raises ConfigError, and Refused where the backup may have forgotten spent budget.
    """
    folder = folder.absolute()
    former = _former(folder)
    new = folder.with_name(f".{folder.name}.restoring")
    if new.exists():
        raise ConfigError(f"{new} is left from a restore that did not finish; remove it")
    try:
        named = paths_named_in(read_backed_up(file, "silo.toml"))
        contents = unpack_backup(file, "silo", NAMES, new, named)
        home = Home.open(new)
        rounds = None if seen is None else read_seen_rounds(seen, home.settings.name)
        _check_nothing_forgotten(home, former, rounds, file)
        parts = () if former is None else PARTS
        with only_one(folder if parts else new, parts, "fedtl silo run"):
            return RestoredSite(contents, replace_folder(folder, new))
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _former(folder: Path) -> dict[str, ChainEnds] | None:
    """Return the ends of the chains that the folder has; None for an empty one. Raises ConfigError for a folder of something else."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    found = {name: HashChainFile(folder / name) for name in CHAINS if HashChainFile(folder / name).exists()}
    if not found and not (folder / "silo.toml").is_file():
        raise ConfigError(f"{folder} is not the folder of a site; choose a new folder")
    return {name: chain_ends(file) for name, file in found.items()}


def _check_nothing_forgotten(
    home: Home, former: Mapping[str, ChainEnds] | None, seen: Mapping[str, SeenRounds] | None, file: Path
) -> None:
    ends = former or {}
    for name in CHAINS:
        if lost := forgotten(HashChainFile(home.path / name), ends.get(name, {})):
            raise Refused(f"{file} is older than the folder that it would replace: {lost}; {OTHER_COPY}")
    lines = home.record.lines()
    without_key = replace(home, settings=home.settings.model_copy(update={"key_file": ""}))
    if missing := missing_entries(without_key, lines):
        raise LedgerDamaged(f"{file}: {missing[0]}; use another backup")
    asked: dict[str, int] = {}
    for entry in (line.entry for line in lines):
        if isinstance(entry, TaskReceived | RoundRefused) and entry.study and entry.round:
            asked[entry.study] = max(asked.get(entry.study, 0), entry.round)
    for study, rounds in (seen or {}).items():
        if asked.get(study, 0) < rounds.last:
            raise Refused(
                f"{file} was made before round {rounds.last} of study {study!r}, which the coordinator asked this site for (the last one in it: "
                f"{asked.get(study, 0)}); {OTHER_COPY}"
            )
    private = home.ledger.exists() or home.settings.policy.privacy is not None
    if private and seen is None and not ends.get("record.sqlite"):
        raise Refused(
            f"nothing here shows whether {file} is the last state of this site; ask the coordinator for: fedtl server rounds DIR "
            f"{home.settings.name} --out ROUNDS.json, and restore with: --seen ROUNDS.json"
        )
