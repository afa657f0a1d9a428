"""
A backup: one tar file with the files of a site or a coordinator, which only its owner can read. It holds keys and is not
encrypted. Its last file lists the hash of every other one.
"""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Literal

import fedtl
from fedtl._util.files import make_folder, write_file
from fedtl.errors import ConfigError

CONTENTS = "backup.json"
MAX_FILES = 100_000
MAX_BYTES = 64 << 30
MAX_CONTENTS_BYTES = 64 << 20
MAX_READ_BYTES = 1 << 20  # of a file that is read before a backup is unpacked
Kind = Literal["silo", "server"]


@dataclass(frozen=True)
class BackupContents:
    """``name``: of the site, or the host of the coordinator. ``files``: the SHA-256 of each by its path."""

    kind: Kind
    name: str
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    fedtl: str = fedtl.__version__
    files: Mapping[str, str] = field(default_factory=dict)


def files_below(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """
    Return the plain files among ``names`` in ``folder``, and below those that are folders, by their path in the folder. What is hidden is not
    among them: files that are written just now, and locks.
    """
    paths = [path for name in names for path in (folder / name, *_below(folder / name))]
    return {
        path.relative_to(folder).as_posix(): path
        for path in paths
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    }


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder and its folders that are not hidden. Raises OSError for a folder that cannot be read."""

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for where, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(files))


def write_backup(out: Path, contents: BackupContents, files: Mapping[str, Path]) -> None:
    """
    Write ``files``, by their path in the folder, into a new file; not those that a running process has removed since they were listed. Raises
    ConfigError where ``out`` exists.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; choose a new file for the backup")
    write_file(out, lambda new: _fill(new, contents, files), private=True)


def _fill(new: Path, contents: BackupContents, files: Mapping[str, Path]) -> None:
    digests = {}
    with tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(files.items()):
            with suppress(FileNotFoundError), path.open("rb") as content:
                size = os.fstat(content.fileno()).st_size  # a history may grow meanwhile
                digests[name] = _digest_of(content, size)
                content.seek(0)
                _add(archive, name, size, content)
        table = json.dumps({**asdict(contents), "files": digests}, indent=1).encode()
        _add(archive, CONTENTS, len(table), BytesIO(table))


def _add(archive: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    archive.addfile(entry, content)


def read_backed_up(file: Path, name: str) -> bytes:
    """
    Return the content of one file of a backup; b"" where the backup does not have it as a plain file of at most ``MAX_READ_BYTES``.
    Raises ConfigError for a file that is not a backup.
    """
    try:
        with closing(tarfile.open(file, "r:")) as archive:
            for entry in archive:
                if entry.name == name and entry.type == tarfile.REGTYPE and entry.size <= MAX_READ_BYTES:
                    content = archive.extractfile(entry)
                    assert content is not None  # a plain file
                    return content.read()
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{file} is not a backup of fedtl: {error}") from error
    return b""


def unpack_backup(
    file: Path, kind: Kind, names: Iterable[str], folder: Path, paths: Iterable[str] = ()
) -> BackupContents:
    """
    Write the files of a backup into the new private ``folder`` and return what it holds. ``names``: the only first parts of paths that
    it may have, besides the whole ``paths``. Raises ConfigError for a file that is not a backup of this kind, is too large, or does not
    have the bytes that it lists.
    """
    make_folder(folder, private=True)
    allowed, whole = {*names, CONTENTS}, frozenset(paths)
    try:
        with closing(tarfile.open(file, "r:")) as archive:
            _check_entries(archive, allowed, whole, file)
            for entry in archive:
                path = folder / entry.name
                content = archive.extractfile(entry)
                assert content is not None  # a plain file
                write_file(path, partial(_copy, content), private=True)
        contents = _read_contents(folder / CONTENTS, kind, file)
        for name in contents.files.keys() | set(files_below(folder, (*names, *whole))):
            if _digest(folder / name) != contents.files.get(name):
                raise ConfigError(f"{file}: {name} differs from what was backed up; use another backup")
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{file} is not a backup of fedtl: {error}") from error
    (folder / CONTENTS).unlink()
    return contents


def _check_entries(archive: tarfile.TarFile, allowed: set[str], whole: frozenset[str], file: Path) -> None:
    """Raise ConfigError before anything is written, for an entry that is not a plain file, a path elsewhere, and too much of it."""
    total, seen = 0, set[str]()
    for entry in archive:
        parts = PurePosixPath(entry.name).parts
        known = entry.name in whole or (parts and parts[0] in allowed)
        if entry.type != tarfile.REGTYPE or not known or ".." in parts:
            raise ConfigError(f"{file}: {entry.name!r} is not a file of a backup; use another backup")
        if entry.name in seen:
            raise ConfigError(f"{file}: {entry.name!r} is in it twice; use another backup")
        seen.add(entry.name)
        total += entry.size
        if len(seen) > MAX_FILES or total > MAX_BYTES:
            raise ConfigError(
                f"{file} has more than {MAX_FILES:,} files or {MAX_BYTES:,} bytes; a backup has fewer"
            )


def _digest_of(content: IO[bytes], size: int) -> str:
    digest = sha256()
    while size and (part := content.read(min(size, 1 << 20))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


def _copy(content: IO[bytes], new: Path) -> None:
    with new.open("wb") as out:
        while part := content.read(1 << 20):
            out.write(part)


def _read_contents(path: Path, kind: Kind, file: Path) -> BackupContents:
    try:
        if path.stat().st_size > MAX_CONTENTS_BYTES:
            raise ValueError(f"{CONTENTS} has more than {MAX_CONTENTS_BYTES:,} bytes")
        contents = BackupContents(**json.loads(path.read_text()))
        if contents.kind != kind:
            raise ValueError(f"it is a backup of a {contents.kind}")
        return contents
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} is not a backup of a {kind}: {error}") from error


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as content:
            return _digest_of(content, path.stat().st_size)
    except OSError:
        return ""


def replace_folder(folder: Path, new: Path) -> Path | None:
    """Put ``new`` in the place of ``folder``, and return where what was there is now; None where nothing was."""
    old = None
    if folder.exists():
        if any(folder.iterdir()):
            old = folder.with_name(f"{folder.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
            os.rename(folder, old)
        else:
            folder.rmdir()
    os.rename(new, folder)
    return old
