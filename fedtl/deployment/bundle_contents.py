"""Checks what an app bundle holds. A site's SuperNode calls this for every bundle, so nothing large is imported here."""

import zipfile
from importlib.metadata import packages_distributions
from io import BytesIO
from sys import stdlib_module_names

from fedtl.deployment.plan import EXPERIMENTS_FOLDER
from fedtl.errors import ConfigError

MAX_BUNDLE_BYTES = 10 << 20  # Flower's own limit
MAX_UNPACKED_BYTES = 32 << 20
ALLOWED_NAMES = ("server", "clients", EXPERIMENTS_FOLDER, ".info", "pyproject.toml")
ADVICE = "ask the coordinator for one that fedtl server bundle built"


def check_bundle_contents(content: bytes) -> None:
    """
    Check the content of a bundle. Raises ConfigError if it is too large, is not a zip file, holds a path outside its
    folder, holds anything but ``ALLOWED_NAMES``, or would be imported in place of an installed package.
    """
    if len(content) > MAX_BUNDLE_BYTES:
        raise ConfigError(
            f"the bundle has {len(content):,} bytes; the limit is {MAX_BUNDLE_BYTES:,}; {ADVICE}"
        )
    try:
        with zipfile.ZipFile(BytesIO(content)) as bundle:
            files = bundle.infolist()
    except zipfile.BadZipFile as error:
        raise ConfigError(f"the bundle is not a .fab file: {error}; {ADVICE}") from error
    if (size := sum(file.file_size for file in files)) > MAX_UNPACKED_BYTES:
        raise ConfigError(
            f"the bundle has {size:,} bytes unpacked; the limit is {MAX_UNPACKED_BYTES:,}; {ADVICE}"
        )
    installed = {*packages_distributions(), *stdlib_module_names, "fedtl"} - {"server", "clients"}
    for file in files:
        path = file.filename
        top = path.split("/")[0]
        if ".." in path.split("/") or path.startswith("/") or "\\" in path:
            raise ConfigError(f"the bundle holds {path!r}, a path outside its folder; {ADVICE}")
        if top.removesuffix(".py") in installed:
            raise ConfigError(
                f"the bundle holds {top!r}, which would be imported instead of the installed package; {ADVICE}"
            )
        if top not in ALLOWED_NAMES:
            raise ConfigError(
                f"the bundle holds {top!r}; it may hold only {', '.join(ALLOWED_NAMES)}; {ADVICE}"
            )
