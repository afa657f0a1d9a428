"""
Python values whose tensors and arrays are written apart from the pickle, so that a file of them can be memory-mapped.

For processes of one run on machines of one user only: pickles from other users are not safe to read.
"""

import io
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedtl._util.files import write_file
from fedtl._util.tensors import from_raw, to_raw

LENGTH = struct.Struct("<Q")
ALIGNMENT = 64  # bytes: the alignment that vector instructions need to be fast
Pickled = tuple[bytes, Sequence[Any]]


def write_mapped(path: Path, value: Any) -> None:
    """Write the value atomically to a file that only its owner can read. It need not survive a power cut."""
    pickled, buffers = to_buffers(value)
    index = pickle.dumps((pickled, [len(buffer) for buffer in buffers]))

    def fill(new: Path) -> None:
        with new.open("wb") as file:
            file.write(LENGTH.pack(len(index)))
            file.write(index)
            for buffer in buffers:
                file.write(bytes(-file.tell() % ALIGNMENT))
                file.write(buffer)

    write_file(path, fill, private=True, durable=False)


def read_mapped(path: Path) -> Any:
    """The value. Its tensors are pages of the file, copied when written to; they stay valid after the file is deleted."""
    # Python's own mmap would keep a descriptor open for every file, and a thousand silos exceed the limit.
    pages = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    view = memoryview(pages.numpy())  # type: ignore[arg-type]
    (length,) = LENGTH.unpack(view[: LENGTH.size])
    position = LENGTH.size + length
    pickled, lengths = pickle.loads(view[LENGTH.size : position])
    buffers = []
    for length in lengths:
        position += -position % ALIGNMENT
        buffers.append(view[position : position + length])
        position += length
    return from_buffers(pickled, buffers)


def to_buffers(value: Any) -> tuple[bytes, list[memoryview]]:
    """The pickle without the large buffers, and the buffers, which are still the value's own memory."""
    stream, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    return stream.getvalue(), [buffer.raw() for buffer in buffers]


def from_buffers(pickled: bytes, buffers: Sequence[Any]) -> Any:
    return pickle.loads(pickled, buffers=buffers)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        return from_raw, (pickle.PickleBuffer(to_raw(value)), value.dtype, tuple(value.shape))
