"""
The columns that a plan names, and the rows of a source brought into that order.

A column is a number, or a category with its values, which is one input of 0 or 1 per value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import ConfigError, DataError


@dataclass(frozen=True)
class Column:
    """``values``: of a category; () for a number."""

    name: str
    values: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that the column becomes."""
        return tuple(f"{self.name}={value}" for value in self.values) or (self.name,)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.values)})" if self.values else f"{self.name} (number)"


def declared(settings: DataSettings) -> list[Column]:
    return [Column(name, tuple(settings.categories.get(name, ()))) for name in settings.columns]


def parsed(text: str) -> list[Column]:
    """From the command line: ``age,chol,sex=f|m``. Raises ConfigError."""
    found = []
    for word in text.split(","):
        name, equals, values = word.strip().partition("=")
        if not name or (equals and not all(values.split("|"))):
            raise ConfigError(
                f"--columns {text!r}: names with commas; a category with its values: age,chol,sex=f|m"
            )
        found.append(Column(name, tuple(values.split("|")) if equals else ()))
    return found


def named(settings: DataSettings, columns: Sequence[Column]) -> DataSettings:
    """The settings with these columns. Raises ValidationError for a name that does not print."""
    told = {
        "columns": [column.name for column in columns],
        "categories": {column.name: list(column.values) for column in columns if column.values},
    }
    return DataSettings.model_validate(settings.model_dump() | told)


def arranged(raw: Raw, settings: DataSettings, where: str) -> Raw:
    """
    The rows of a table with their inputs in the plan's order. Raises DataError for a table of other columns, and for one
    whose columns have no names where the plan has some.
    """
    wanted = tuple(name for column in declared(settings) for name in column.inputs)
    if raw.train.x.ndim != 2 or raw.columns == wanted:
        return raw
    if not wanted and raw.columns == positions(raw.train.x):
        return raw
    if not wanted:
        raise DataError(
            f"{where}: the plan names no columns, and the rows have some ({', '.join(raw.columns[:12])}); "
            "ask the coordinator for a bundle that names them (data.columns)"
        )
    if sorted(raw.columns) != sorted(wanted):
        raise DataError(f"{where}: {_difference(raw.columns, wanted)}")
    order = [raw.columns.index(name) for name in wanted]

    def ordered(x: Array) -> Array:
        return np.ascontiguousarray(x[:, order])

    def part(one: Part | None) -> Part | None:
        return None if one is None else replace(one, x=ordered(one.x))

    train = part(raw.train)
    assert train is not None
    target, test = None if raw.target is None else ordered(raw.target), part(raw.target_test)
    if (
        target is not None
        and test is not None
        and raw.target_test is not None
        and raw.target is raw.target_test.x
    ):
        test = replace(test, x=target)  # the split asks whether they are the same rows
    return Raw(train, part(raw.val), part(raw.test), target, test, wanted)


def positions(x: Array) -> tuple[str, ...]:
    """What the columns of a table without names are called."""
    return tuple(str(at) for at in range(x.shape[1]))


def _difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    missing = [name for name in wanted if name not in found]
    more = [name for name in found if name not in wanted]
    says = [f"the plan's {', '.join(map(repr, missing[:12]))} missing"] if missing else []
    says += [f"{', '.join(map(repr, more[:12]))} not in the plan"] if more else []
    return f"the columns differ: {'; '.join(says) or 'a name stands twice'}"
