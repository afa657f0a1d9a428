"""
Backs a site's folder up and restores it. A restore never forgets spent budget: it is refused where the ledger or the record of the backup
lacks lines that the folder has, or rounds that the coordinator asked for.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fedtl.deployment.archive import (
    BackupContents,
    files_below,
    replace_folder,
    unpack_backup,
    write_backup,
)
from fedtl.deployment.running import only_one
from fedtl.deployment.site.egress_lines import RoundRefused, TaskReceived
from fedtl.deployment.site.home import SECRET_FILES, Home
from fedtl.deployment.site.paid import missing_entries
from fedtl.deployment.site.run import PARTS
from fedtl.errors import ConfigError, LedgerDamaged, Refused
from fedtl.privacy.chain_copies import ChainEnds, chain_ends, copy_chains, forgotten
from fedtl.privacy.hash_chain import HashChainFile

CHAINS = ("ledger.sqlite", "record.sqlite")
CHAIN_FILES = tuple(f"{name}{end}" for name in CHAINS for end in ("", ".tip"))
PLAIN = ("silo.toml", "node.key.pub", "ca.crt", "approved.json", "state", "rehearsed", "silo.log")
NAMES = (*PLAIN, *SECRET_FILES, *CHAIN_FILES)
MAX_SEEN_BYTES = 16 << 20
OTHER_COPY = (
    "private updates may have left that it does not know, and their budget would be spent again; restore a later backup. Without one it is "
    "unknown what was spent on these rows, and no private round may use them again"
)


def back_up_site(home: Home, out: Path) -> BackupContents:
    """
    Write a backup of the site's folder, without its rows and without ``key_file``. It waits for a round to end. Raises ConfigError where
    ``out`` exists, and LedgerDamaged where the ledger or the record is broken.
    """
    contents = BackupContents("silo", home.settings.name)
    with home.alone(), TemporaryDirectory(dir=home.path, prefix=".backup-") as work:
        copies = [
            copy for name in CHAINS for copy in copy_chains(HashChainFile(home.path / name), Path(work))
        ]
        files = files_below(home.path, (*PLAIN, *SECRET_FILES))
        write_backup(out, contents, {**files, **{copy.name: copy for copy in copies}})
    return contents


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
        raise ConfigError(f"{new} is left from a restore that did not end; remove it")
    try:
        contents = unpack_backup(file, "silo", NAMES, new)
        home = Home.open(new)
        _check_nothing_forgotten(home, former, _read_seen(seen, home.settings.name), file)
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
    home: Home, former: Mapping[str, ChainEnds] | None, seen: Mapping[str, int] | None, file: Path
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
    for study, round in (seen or {}).items():
        if asked.get(study, 0) < round:
            raise Refused(
                f"{file} was made before round {round} of study {study!r}, which the coordinator asked this site for (the last one in it: "
                f"{asked.get(study, 0)}); {OTHER_COPY}"
            )
    private = home.ledger.exists() or home.settings.policy.privacy is not None
    if private and seen is None and not ends.get("record.sqlite"):
        raise Refused(
            f"nothing here shows whether {file} is the last state of this site; ask the coordinator for: fedtl server rounds DIR "
            f"{home.settings.name} --out ROUNDS.json, and restore with: --seen ROUNDS.json"
        )


def _read_seen(path: Path | None, site: str) -> dict[str, int] | None:
    """Return the last round of each study that the coordinator asked the site for. Raises ConfigError."""
    if path is None:
        return None
    try:
        if path.stat().st_size > MAX_SEEN_BYTES:
            raise ValueError(f"it has more than {MAX_SEEN_BYTES:,} bytes")
        content = json.loads(path.read_text())
        if content["site"] != site:
            raise ValueError(f"it is of site {content['site']!r}, and the backup of {site!r}")
        return {str(study): int(rounds["last"]) for study, rounds in content["studies"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not hold the rounds of this site: {error}; the coordinator writes it: fedtl server rounds DIR {site} --out FILE"
        ) from error
