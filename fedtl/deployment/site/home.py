"""
An institution's folder: opened by the processes that work for it, closed to everybody else.

    silo.toml      what it has and allows      approved.json    what its steward signed
    node.key       proves who calls            secret           mixes into every draw; marks the rows in the ledger
    state/         head, statistics, last reply of each study       ledger.sqlite   privacy spent
    record.sqlite  what came and left          rehearsed/       the pages shown before signing
"""

import json
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedtl._util.files import lock_folder, make_folder, write_bytes
from fedtl.deployment.site import keys
from fedtl.deployment.site.settings import HomeSettings, load
from fedtl.deployment.site.template import TEMPLATE
from fedtl.errors import ConfigError
from fedtl.privacy.hash_chain import HashChainFile

if TYPE_CHECKING:  # they bring torch, and two of the processes that open a home do without
    from fedtl.deployment.site.egress_log import EgressLog
    from fedtl.deployment.site.state_store import SiloStateStore

PRIVATE = ("node.key", "secret", "exec.secret")
LOCATION = "FEDTL_SILO"  # the environment variable by which a ClientApp finds its home


@dataclass(frozen=True)
class Home:
    path: Path
    settings: HomeSettings

    @classmethod
    def create(cls, path: Path, name: str, server: str) -> "Home":
        """Raises ConfigError where something stands already."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is not empty; a new home needs a new folder")
        text = TEMPLATE.format(name=json.dumps(name), server=json.dumps(server))
        existed = path.exists()
        make_folder(path, private=True)
        path.chmod(0o700)
        write_bytes(path / "silo.toml", text.encode(), private=True)
        try:
            home = cls(path, load(path))
        except ConfigError:
            (path / "silo.toml").unlink()
            if not existed:
                path.rmdir()
            raise
        keys.make_node_key(path / "node.key", name)
        for file in ("secret", "exec.secret"):
            write_bytes(path / file, os.urandom(32), private=True)
        return home

    @classmethod
    def open(cls, path: Path) -> "Home":
        """Raises ConfigError where there is none, or others could read what is secret."""
        path = path.absolute()
        home = cls(path, load(path))
        keys.check_private(path)
        for file in PRIVATE:
            keys.check_private(path / file)
        return home

    @cached_property
    def record(self) -> "EgressLog":
        from fedtl.deployment.site.egress_log import EgressLog

        return EgressLog(self.path / "record.sqlite", self.settings.name)

    @cached_property
    def memory(self) -> "SiloStateStore":
        from fedtl.deployment.site.state_store import SiloStateStore

        seal = keys.FileEncryption(self.at(self.settings.key_file)) if self.settings.key_file else None
        return SiloStateStore(self.state, self.settings.name, seal)

    @property
    def dataset(self) -> str:
        """
        What the rows' budget hangs on: ``data.name``; without one the name under which this home's rows were charged
        before, or the site's. Raises ConfigError where that could be several.
        """
        named = self.settings.data.name
        known = HashChainFile(self.ledger).names() if self.ledger.exists() and not named else []
        if named or not known or self.settings.name in known:
            return named or self.settings.name
        if len(known) > 1:
            raise ConfigError(
                f"silo.toml: data.name must say which the rows are: {', '.join(known)} are in the ledger"
            )
        return known[0]

    @property
    def secret(self) -> bytes:
        return keys.secret(self.path / "secret")

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.sqlite"

    @property
    def state(self) -> Path:
        """A folder for each study of which something is kept."""
        return self.path / "state"

    @property
    def approved(self) -> Path:
        return self.path / "approved.json"

    def at(self, path: str) -> Path:
        """A path of silo.toml: relative to the folder."""
        return self.path / Path(path).expanduser()

    def alone(self) -> AbstractContextManager[None]:
        """One round at a time, whatever became of the process that was at the last one."""
        return lock_folder(self.path)

    def log(self, text: str) -> None:
        """For the steward; never sent."""
        handle = os.open(self.path / "silo.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "a") as file:
            file.write(text + "\n")
