"""Values that are computed once and mapped by every process of a run: a silo's data is read once and never copied."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fedtl.simulation.mapped_pickle import read_mapped, write_mapped
from fedtl.simulation.temp_folder import temporary_folder

T = TypeVar("T")


@dataclass(frozen=True)
class SharedStore:
    """A folder of memory-mapped values by key. Two processes may make the same value at once: the last one stays."""

    folder: Path

    def has(self, key: str) -> bool:
        return (self.folder / key).exists()

    def get(self, key: str) -> Any:
        """The value of this key; its tensors and arrays are pages of the file."""
        return read_mapped(self.folder / key)

    def put(self, key: str, value: object) -> None:
        """Store the value."""
        write_mapped(self.folder / key, value)

    def get_or_make(self, key: str, make: Callable[[], T]) -> T:
        """The value of this key; ``make`` makes it where there is none."""
        if not self.has(key):
            self.put(key, make())
        value: T = self.get(key)
        return value

    def remove(self, key: str) -> None:
        """Remove the file. Values that were read from it stay valid."""
        (self.folder / key).unlink(missing_ok=True)


@contextmanager
def temporary_store() -> Iterator[SharedStore]:
    """A store on disk that only this user can read and that is removed when the block ends."""
    with temporary_folder() as folder:
        yield SharedStore(folder)
