"""How large the reply of a site can be by the tensors of a plan, as Flower sends it: object by object."""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedtl.errors import ConfigError

CHUNK_BYTES = 5 << 20  # the largest part of an array that Flower sends in one object
RECORD_BYTES = 64 << 10  # of records, metrics and framing
ID_BYTES = 256  # of an object in a list of objects
NAME_BYTES = 2048  # of a tensor in the header of a safetensors file; names have at most 1000 characters
PARTS = 3  # tensors in which a compressed one is sent at most
HEADER_BYTES = 8  # of a safetensors file, before its header


@dataclass(frozen=True)
class ReplySize:
    """Limits in bytes. ``record``: of a list of objects; ``object``: of one object; ``total``: of all objects of a reply."""

    record: int = RECORD_BYTES
    object: int = RECORD_BYTES
    total: int = 2 * RECORD_BYTES


def reply_size(folder: Path) -> ReplySize:
    """
    Return the largest reply that the plan of any bundle in the coordinator's ``folder`` allows. A bundle with a damaged file is not counted:
    see ``damaged_bundles``.
    """
    sizes = []
    for path in _start_files(folder):
        with suppress(ConfigError):
            sizes.append(_of_tensors(tensor_bytes(path)))
    return ReplySize(
        max((size.record for size in sizes), default=ReplySize.record),
        max((size.object for size in sizes), default=ReplySize.object),
        max((size.total for size in sizes), default=ReplySize.total),
    )


def damaged_bundles(folder: Path) -> dict[str, str]:
    """Return by name, for each bundle in the coordinator's ``folder`` whose tensors cannot be read, the file and what to do."""
    damage = {}
    for path in _start_files(folder):
        try:
            tensor_bytes(path)
        except ConfigError as error:
            damage[path.parent.name] = str(error)
    return damage


def _start_files(folder: Path) -> list[Path]:
    return sorted((folder / "bundles").glob("*/start.safetensors"))


def _of_tensors(tensors: Iterable[int]) -> ReplySize:
    """
    Return the limits for an update with tensors of these sizes, which is one safetensors file. In full it has the bytes of the
    shared tensors; a compressed one has fewer, in at most ``PARTS`` parts a tensor.
    """
    sizes = list(tensors)
    file = sum(sizes) + PARTS * NAME_BYTES * len(sizes) + HEADER_BYTES
    record = RECORD_BYTES + ID_BYTES * math.ceil(file / CHUNK_BYTES)
    return ReplySize(record, min(file, CHUNK_BYTES) + RECORD_BYTES, file + 2 * record)


def tensor_bytes(path: Path) -> list[int]:
    """Return the size of each tensor in a safetensors file, from its header alone. Raises ConfigError for a damaged file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(HEADER_BYTES), "little")
            if length > size:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        offsets = [row["data_offsets"] for name, row in header.items() if name != "__metadata__"]
        for start, end in offsets:
            if not (type(start) is type(end) is int and 0 <= start <= end <= size - HEADER_BYTES - length):
                raise ValueError(f"a tensor at {start} to {end} in a file of {size} bytes")
        return [end - start for start, end in offsets]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not a file of tensors: {error}; build the bundle again, or remove its folder"
        ) from error


def reply_size_by(start: Path) -> ReplySize:
    """Return the largest reply by the file of a plan's first shared tensors. Raises ConfigError for a damaged one."""
    return _of_tensors(tensor_bytes(start))
