"""How much a file may hold before it is read: a small file can decode to more than the memory has."""

import zipfile
from pathlib import Path

from fedtl.errors import DataError

MAX_BYTES = 1 << 30  # of one file, and of what it decodes to
MEGABYTE = 1 << 20
MAX_RATIO = (
    20  # of what a packed file of any size unpacks to; measurements rarely exceed 5, a bomb has up to 1,000
)


def check_file_size(path: Path) -> None:
    """Raise DataError where the file cannot be looked up or is larger than ``MAX_BYTES``."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    check_bytes(path, size)


def check_bytes(path: Path, size: float) -> None:
    """Raise DataError where ``size`` bytes are more than one file may hold."""
    if size > MAX_BYTES:
        raise DataError(
            f"{path} holds {size / MEGABYTE:,.0f} MB, and fedtl reads at most {MAX_BYTES // MEGABYTE:,} MB from a file; divide it, or reduce "
            "its resolution"
        )


def check_unpacked(path: Path) -> None:
    """
    Raise DataError where a zip file, such as an .npz, unpacks to more than ``MAX_BYTES`` and more than ``MAX_RATIO`` times its own
    size. Raises OSError or BadZipFile where it is none. Nothing is unpacked, and no reader of zip files reads past the sizes that are added up here.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    limit = max(MAX_BYTES, MAX_RATIO * path.stat().st_size)
    if size > limit:
        raise DataError(
            f"{path} unpacks to {size / MEGABYTE:,.0f} MB, and fedtl unpacks at most {limit / MEGABYTE:,.0f} MB of a file of its size; save it "
            "with numpy.savez, which does not pack"
        )
