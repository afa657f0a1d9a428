"""
The columns that a plan names, and a table put into their order.

A column is a number, or a category with its values, which becomes one input of 0 or 1 for each value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import ConfigError, DataError

MAX_NAMES = 12  # that a message lists


@dataclass(frozen=True)
class Column:
    """``values``: those of a category; () for a number."""

    name: str
    values: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that the column becomes."""
        return tuple(f"{self.name}={value}" for value in self.values) or (self.name,)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.values)})" if self.values else f"{self.name} (number)"


def declared_columns(settings: DataSettings) -> list[Column]:
    return [Column(name, tuple(settings.categories.get(name, ()))) for name in settings.columns]


def parse_columns(text: str) -> list[Column]:
    """Return the columns in ``age,chol,sex=f|m``, as the command line takes them. Raises ConfigError."""
    columns = []
    for word in text.split(","):
        name, equals, values = word.strip().partition("=")
        if not name or (equals and not all(values.split("|"))):
            raise ConfigError(
                f"--columns {text!r}: write names separated by commas, a category with its values: age,chol,sex=f|m"
            )
        columns.append(Column(name, tuple(values.split("|")) if equals else ()))
    return columns


def with_declared_columns(settings: DataSettings, columns: Sequence[Column]) -> DataSettings:
    """Return the settings with these columns. Raises ValidationError for a name that is not printable."""
    update = {
        "columns": [column.name for column in columns],
        "categories": {column.name: list(column.values) for column in columns if column.values},
    }
    return DataSettings.model_validate(settings.model_dump() | update)


def order_columns(raw: Raw, settings: DataSettings, where: str) -> Raw:
    """
    Return the rows of a table, or series, with the inputs in the order of ``settings.columns``; images are returned as they are.

    Raises DataError for a table with other columns, and for a table with named columns where the settings name none.
    """
    expected = tuple(name for column in declared_columns(settings) for name in column.inputs)
    if not raw.columns or raw.columns == expected:
        return raw
    if not expected and raw.columns == column_numbers(raw.train.x):
        return raw
    if not expected:
        raise DataError(
            f"{where}: the plan names no columns, but the rows have {', '.join(raw.columns[:MAX_NAMES])}; "
            "ask the coordinator for a bundle that names them (data.columns)"
        )
    if sorted(raw.columns) != sorted(expected):
        raise DataError(f"{where}: {_difference(raw.columns, expected)}")
    return in_order(raw, expected)


def in_order(raw: Raw, expected: Sequence[str]) -> Raw:
    """Return the rows with the inputs in the order of ``expected``; as they are where these are not the names of all inputs."""
    if raw.columns == tuple(expected) or sorted(raw.columns) != sorted(expected):
        return raw
    order = [raw.columns.index(name) for name in expected]

    def ordered(x: Array) -> Array:
        return np.ascontiguousarray(x[..., order])

    def ordered_part(part: Part | None) -> Part | None:
        return None if part is None else replace(part, x=ordered(part.x))

    target = None if raw.target is None else ordered(raw.target)
    target_test = ordered_part(raw.target_test)
    if target is not None and target_test is not None and raw.target_to_split:
        target_test = replace(target_test, x=target)
    return replace(
        raw,
        train=replace(raw.train, x=ordered(raw.train.x)),
        val=ordered_part(raw.val),
        test=ordered_part(raw.test),
        target=target,
        target_test=target_test,
        columns=tuple(expected),
    )


def column_numbers(x: Array) -> tuple[str, ...]:
    """Return the names of the columns of a table, or of the channels of series, without names: their numbers."""
    return tuple(str(number) for number in range(x.shape[-1]))


def _difference(columns: Sequence[str], expected: Sequence[str]) -> str:
    missing = [name for name in expected if name not in columns]
    extra = [name for name in columns if name not in expected]
    parts = [f"missing {', '.join(map(repr, missing[:MAX_NAMES]))}"] if missing else []
    parts += [f"not in the plan {', '.join(map(repr, extra[:MAX_NAMES]))}"] if extra else []
    return f"the columns differ from the plan's: {'; '.join(parts) or 'a name occurs twice'}"
