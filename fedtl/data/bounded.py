"""How much a file may hold before it is read: a small file can decode to more than the memory has."""

from pathlib import Path

from fedtl.errors import DataError

MAX_BYTES = 1 << 30  # of one file, and of what it decodes to
MEGABYTE = 1 << 20


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
