"""Values that were made once, kept as files that every process maps: a silo's data is read once and copied never."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fedtl.simulate import parcel
from fedtl.simulate.scratch import scratch

T = TypeVar("T")


@dataclass(frozen=True)
class Shelf:
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
def temporary() -> Iterator[Shelf]:
    """A shelf on disk, readable by this user alone, that goes when the block ends."""
    with scratch() as folder:
        yield Shelf(folder)
