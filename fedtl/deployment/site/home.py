"""
The folder of a site, which only its owner can read.

    silo.toml      what the site has and allows          approved.json    what its steward approved
    node.key       identifies the site to the server     secret           part of every random seed; the key of row hashes
    state/         head, statistics and last reply of each study          ledger.sqlite    privacy budget spent
    record.sqlite  every message in and out              rehearsed/       the pages shown before approval
"""

import json
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedtl._util.files import lock_folder, make_folder, write_bytes
from fedtl.deployment.event_log import FILES, append_rotated
from fedtl.deployment.site import keys
from fedtl.deployment.site.settings import HomeSettings, load_home_settings
from fedtl.deployment.site.template import TEMPLATE
from fedtl.errors import ConfigError
from fedtl.privacy.hash_chain import HashChainFile

if TYPE_CHECKING:  # they import torch, which two of the processes that open this folder do not need
    from fedtl.deployment.site.egress_log import EgressLog
    from fedtl.deployment.site.state_store import SiloStateStore

SECRET_FILES = ("node.key", "secret", "exec.secret")
LOG_FILES = ("silo.log", *(f"silo.log.{number}" for number in range(1, FILES)))  # the newest first
SILO_FOLDER_VARIABLE = "FEDTL_SILO"  # the environment variable that tells a ClientApp its folder


@dataclass(frozen=True)
class Home:
    path: Path
    settings: HomeSettings

    @classmethod
    def create(cls, path: Path, name: str, server: str) -> "Home":
        """Create the folder, its silo.toml and its keys. Raises ConfigError where the folder is not empty."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is not empty; choose a new folder for the site")
        text = TEMPLATE.format(name=json.dumps(name), server=json.dumps(server))
        existed = path.exists()
        make_folder(path, private=True)
        path.chmod(0o700)
        write_bytes(path / "silo.toml", text.encode(), private=True)
        try:
            home = cls(path, load_home_settings(path))
        except ConfigError:
            (path / "silo.toml").unlink()
            if not existed:
                path.rmdir()
            raise
        keys.create_node_key(path / "node.key", name)
        for file in ("secret", "exec.secret"):
            write_bytes(path / file, os.urandom(32), private=True)
        return home

    @classmethod
    def open(cls, path: Path) -> "Home":
        """Open a folder. Raises ConfigError where it has no silo.toml, or where others could read its secrets."""
        path = path.absolute()
        home = cls(path, load_home_settings(path))
        keys.check_private(path)
        for file in SECRET_FILES:
            keys.check_private(path / file)
        return home

    @cached_property
    def record(self) -> "EgressLog":
        from fedtl.deployment.site.egress_log import EgressLog

        return EgressLog(self.path / "record.sqlite", self.settings.name)

    @cached_property
    def states(self) -> "SiloStateStore":
        from fedtl.deployment.site.state_store import SiloStateStore

        key_file = self.settings.key_file
        encryption = keys.FileEncryption(self.at(key_file)) if key_file else None
        return SiloStateStore(self.state, self.settings.name, encryption)

    @property
    def dataset(self) -> str:
        """
        The name of the dataset, to which the lifetime budget belongs: ``data.name``; where it is not set, the name under
        which the rows of this folder were charged before, or the site's name. Raises ConfigError where there are several.
        """
        name = self.settings.data.name
        if name or not self.ledger.exists():
            return name or self.settings.name
        charged = HashChainFile(self.ledger).names()
        if not charged or self.settings.name in charged:
            return self.settings.name
        if len(charged) > 1:
            raise ConfigError(
                f"{self.path / 'silo.toml'}: set data.name to the dataset of these rows; the ledger has {', '.join(charged)}"
            )
        return charged[0]

    @property
    def secret(self) -> bytes:
        return keys.read_secret(self.path / "secret")

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.sqlite"

    @property
    def state(self) -> Path:
        """The folder of stored state; it has a folder for each study."""
        return self.path / "state"

    @property
    def approved(self) -> Path:
        return self.path / "approved.json"

    def at(self, path: str) -> Path:
        """Return the absolute path of a path in silo.toml, which is relative to the folder."""
        return self.path / Path(path).expanduser()

    def alone(self) -> AbstractContextManager[None]:
        """Return a lock, so that one round is processed at a time. It is free again when the process that held it has ended."""
        return lock_folder(self.path)

    def log(self, text: str) -> None:
        """Append to silo.log, which is for the steward and is never sent."""
        append_rotated(self.path / LOG_FILES[0], text)
