"""Checks what an app bundle holds. A site's SuperNode calls this for every bundle, so nothing large is imported here."""

import stat
import zipfile
from collections.abc import Sequence
from importlib.metadata import distributions
from io import BytesIO
from sys import stdlib_module_names

from fedtl.deployment.plan import EXPERIMENTS_FOLDER
from fedtl.errors import ConfigError

MAX_BUNDLE_BYTES = 10 << 20  # Flower's own limit
MAX_UNPACKED_BYTES = 32 << 20
ALLOWED_NAMES = ("server", "clients", EXPERIMENTS_FOLDER, ".info", "pyproject.toml")
APP_PACKAGES = ("server", "clients")  # the bundle's own, which may be installed too
EXECUTABLE = 0o111
ADVICE = "ask the coordinator for one that fedtl server bundle built"


def check_bundle_contents(content: bytes) -> None:
    """
    Check the content of a bundle. Raises ConfigError if it is too large, is not a zip file, holds a path outside its
    folder, a link, an executable file or one path twice, holds anything but ``ALLOWED_NAMES``, or would be imported in place of an installed package.
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
    _check_entries(files)
    for path in (file.filename for file in files):
        if ".." in path.split("/") or path.startswith("/") or "\\" in path:
            raise ConfigError(f"the bundle holds {path!r}, a path outside its folder; {ADVICE}")
    for top in sorted({file.filename.split("/")[0] for file in files}):
        if top not in APP_PACKAGES and _is_installed(top.removesuffix(".py")):
            raise ConfigError(
                f"the bundle holds {top!r}, which would be imported instead of the installed package; {ADVICE}"
            )
        if top not in ALLOWED_NAMES:
            raise ConfigError(
                f"the bundle holds {top!r}; it may hold only {', '.join(ALLOWED_NAMES)}; {ADVICE}"
            )


def _is_installed(name: str) -> bool:
    """
    Whether ``import name`` finds the standard library, fedtl or an installed package. The lists of files are searched as text:
    importlib.metadata.packages_distributions parses each path of each package, in five times as long.
    """
    if not name.isidentifier():
        return False
    if name in stdlib_module_names or name == "fedtl":
        return True
    beginnings = (f"{name}/", f"{name}.")  # of a package, and of a module in Python or compiled
    return any(
        name in (package.read_text("top_level.txt") or "").split()
        or any(line.startswith(beginnings) for line in (package.read_text("RECORD") or "").splitlines())
        for package in distributions()
    )


def _check_entries(files: Sequence[zipfile.ZipInfo]) -> None:
    """Raise ConfigError for an entry that is not a plain file or is executable, and for two that would be written to one path."""
    seen: dict[str, str] = {}
    for file in files:
        mode = file.external_attr >> 16  # 0 where the file was not packed on Unix
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ConfigError(
                f"the bundle holds {file.filename!r}, which is a link or a special file; {ADVICE}"
            )
        if mode & EXECUTABLE and not file.is_dir():
            raise ConfigError(f"the bundle holds {file.filename!r}, which is executable; {ADVICE}")
        path = file.filename.rstrip("/").casefold()  # some disks do not tell capital letters from small ones
        if path in seen:
            raise ConfigError(
                f"the bundle holds {file.filename!r} and {seen[path]!r}, which are one path; {ADVICE}"
            )
        seen[path] = file.filename
