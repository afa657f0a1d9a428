"""What a message says of the columns that are there, in the place of one that is not."""

from collections.abc import Iterable

from fedtl.data.cells import is_number
from fedtl.data.spellings import spelled_alike

MOST = 12  # that a message lists


def columns_there(name: str, columns: Iterable[object]) -> str:
    """Return the names of columns, with a hint at one that differs from ``name`` by its spelling alone, or at a header that is a row."""
    names = list(map(str, columns))
    text = ", ".join(names[:MOST])
    if near := [one for one in names if spelled_alike([name, one])]:
        return f"{text}, of which {near[0]!a} differs by its spelling alone: write its name in one way"
    if sum(map(is_number, names)) > len(names) / 2:
        return f"{text}; the first line seems to be a row: write the names of the columns above it"
    return text
