"""What an app bundle may hold. A site's SuperNode asks this of every bundle, so nothing heavy is imported here."""

import zipfile
from importlib.metadata import packages_distributions
from io import BytesIO
from sys import stdlib_module_names

from fedtl.deployment.plan import EXPERIMENTS
from fedtl.errors import ConfigError

LARGEST = 10 << 20  # bytes; Flower's own limit
UNPACKED = 32 << 20
KNOWN = ("server", "clients", EXPERIMENTS, ".info", "pyproject.toml")


def check_contents(content: bytes) -> None:
    """Whether a bundle holds what a bundle may hold, and shadows nothing that is installed. Raises ConfigError."""
    if len(content) > LARGEST:
        raise ConfigError(f"a bundle of {len(content):,} bytes; the most is {LARGEST:,}")
    try:
        with zipfile.ZipFile(BytesIO(content)) as packed:
            infos = packed.infolist()
            if sum(info.file_size for info in infos) > UNPACKED:
                raise ConfigError(f"the bundle unpacks to more than {UNPACKED:,} bytes")
    except zipfile.BadZipFile as error:
        raise ConfigError(f"that is no bundle: {error}") from error
    installed = {*packages_distributions(), *stdlib_module_names, "fedtl"} - {"server", "clients"}
    for info in infos:
        top = info.filename.split("/")[0]
        if ".." in info.filename.split("/") or info.filename.startswith("/") or "\\" in info.filename:
            raise ConfigError(f"the bundle holds {info.filename!r}, a path out of its folder")
        if top.removesuffix(".py") in installed:
            raise ConfigError(f"the bundle holds {top!r}, which would shadow the installed package")
        if top not in KNOWN:
            raise ConfigError(f"the bundle holds {top!r}; it may hold {', '.join(KNOWN)}")
