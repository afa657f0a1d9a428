"""Values that were made once, kept as files that every process maps: a silo's data is read once and copied never."""

import io
import os
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedtl.simulation import shared_store as parcel
from fedtl.simulation.temp_folder import scratch

T = TypeVar("T")


@dataclass(frozen=True)
class SharedStore:
    """A folder of parcels. Two processes that make the same value at once both succeed: one of the two stays."""

    folder: Path

    def has(self, key: str) -> bool:
        return (self.folder / key).exists()

    def take(self, key: str) -> Any:
        """The value under this key; its tensors and arrays are the file's pages."""
        return parcel.read(self.folder / key)

    def keep(self, key: str, make: Callable[[], T]) -> T:
        """The value under this key, made if nobody made it yet."""
        if not self.has(key):
            parcel.write(self.folder / key, make())
        value: T = self.take(key)
        return value

    def drop(self, key: str) -> None:
        """What is mapped stays readable to whoever has it."""
        (self.folder / key).unlink(missing_ok=True)


@contextmanager
def temporary() -> Iterator[SharedStore]:
    """A shelf on disk, readable by this user alone, that goes when the block ends."""
    with scratch() as folder:
        yield SharedStore(folder)


LENGTH = struct.Struct("<Q")
ALIGNED = 64  # bytes; what vector instructions like


def write(path: Path, value: Any) -> None:
    """Not readable by others; whole or not there at all."""
    head, buffers = pack(value)
    index = pickle.dumps((head, [len(buffer) for buffer in buffers]))
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(LENGTH.pack(len(index)))
        file.write(index)
        for buffer in buffers:
            file.write(bytes(-file.tell() % ALIGNED))
            file.write(buffer)
    new.replace(path)


def read(path: Path) -> Any:
    """The value; its tensors are the file's pages and keep it mapped, even once it is deleted."""
    # Python's own mmap would keep a descriptor open for every file, and a thousand silos have more than there are.
    pages = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    view = memoryview(pages.numpy())  # type: ignore[arg-type]
    (length,) = LENGTH.unpack(view[: LENGTH.size])
    at = LENGTH.size + length
    head, lengths = pickle.loads(view[LENGTH.size : at])
    buffers = []
    for length in lengths:
        at += -at % ALIGNED
        buffers.append(view[at : at + length])
        at += length
    return unpack(head, buffers)


def pack(value: Any) -> tuple[bytes, list[memoryview]]:
    """The value without its large buffers, and the buffers, which still are the value's own memory."""
    stream, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Packer(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    return stream.getvalue(), [buffer.raw() for buffer in buffers]


def unpack(head: bytes, buffers: Sequence[Any]) -> Any:
    return pickle.loads(head, buffers=buffers)


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        plain = value.detach().cpu().contiguous()
        memory: Any = plain.reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(memory), plain.dtype, tuple(plain.shape))


def _tensor(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not len(memoryview(buffer)):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape)
