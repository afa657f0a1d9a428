"""
The columns that a plan names, and a table put into their order.

A column is a number, or of a kind that the settings declare (``Kind``), which may become several inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from fedtl.data.settings import KINDS, DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import ConfigError, DataError

MAX_NAMES = 12  # that a message lists


class Kind(StrEnum):
    """
    What becomes of a column. NUMBER: itself. CATEGORY: one input of 0 or 1 for each value. ORDERED: the number of the value in the
    list. DATE: elapsed days, and the place on a circle for what comes again (``data.dates``). HASHED: as many inputs as
    ``data.hash_width``, one of which is 1 or -1. TARGET: the mean label of the value's training rows (``data.target_encoding``). TEXT: its words, hashed
    to ``data.text_width`` inputs (``data.words``). TOKENS: the numbers of its first ``data.text_width`` tokens (``data.tokens``).
    """

    NUMBER = "number"
    CATEGORY = "category"
    ORDERED = "ordered"
    DATE = "date"
    HASHED = "hashed"
    TARGET = "target"
    TEXT = "text"
    TOKENS = "tokens"


FIXED_SCALE = (Kind.TEXT, Kind.TOKENS)  # whose inputs are never scaled by constants

ON_A_CIRCLE = ("sin", "cos")  # the two inputs of a part of a date that comes again


@dataclass(frozen=True)
class Column:
    """``values``: of a category or an ordered column; ``parts``: of a date; ``width``: of a hashed column, text or tokens."""

    name: str
    values: tuple[str, ...] = ()
    kind: Kind = Kind.NUMBER
    parts: tuple[str, ...] = ()
    width: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that the column becomes."""
        match self.kind:
            case Kind.CATEGORY:
                return tuple(f"{self.name}={value}" for value in self.values)
            case Kind.DATE:
                return tuple(f"{self.name} {input}" for part in self.parts for input in date_inputs(part))
            case Kind.HASHED | Kind.TEXT | Kind.TOKENS:
                return tuple(f"{self.name}#{number}" for number in range(self.width))
            case _:
                return (self.name,)

    def __str__(self) -> str:
        match self.kind:
            case Kind.CATEGORY:
                return f"{self.name} ({', '.join(self.values)})"
            case Kind.ORDERED:
                return f"{self.name} ({' < '.join(self.values)})"
            case Kind.DATE:
                return f"{self.name} (date: {', '.join(self.parts)})"
            case Kind.HASHED:
                return f"{self.name} (hashed to {self.width} inputs)"
            case Kind.TEXT:
                return f"{self.name} (text: its words hashed to {self.width} inputs)"
            case Kind.TOKENS:
                return f"{self.name} (text: its first {self.width} tokens)"
            case Kind.TARGET:
                return f"{self.name} (mean label of its training rows)"
            case _:
                return f"{self.name} (number)"


def date_inputs(part: str) -> tuple[str, ...]:
    """Return the names of the inputs that a part of a date becomes."""
    return (part,) if part == "days" else tuple(f"{part} {which}" for which in ON_A_CIRCLE)


def column_named(name: str, settings: DataSettings) -> Column:
    """Return the column of this name, of the kind that the settings declare."""
    if name in settings.categories:
        return Column(name, tuple(settings.categories[name]), Kind.CATEGORY)
    if name in settings.ordered:
        return Column(name, tuple(settings.ordered[name]), Kind.ORDERED)
    if name in settings.dates:
        return Column(name, kind=Kind.DATE, parts=tuple(settings.date_parts))
    if name in settings.hashed:
        return Column(name, kind=Kind.HASHED, width=settings.hash_width)
    if name in settings.text:
        kind = Kind.TOKENS if settings.tokenizer else Kind.TEXT
        return Column(name, kind=kind, width=settings.text_width)
    return Column(name, kind=Kind.TARGET if name in settings.target_encoded else Kind.NUMBER)


def columns_with_a_kind(settings: DataSettings) -> list[Column]:
    """Return the columns that the settings declare not to be numbers."""
    return [column_named(name, settings) for key in KINDS for name in getattr(settings, key)]


def columns_of_inputs(inputs: Sequence[str], settings: DataSettings) -> list[str]:
    """Return the columns that these inputs are made of, each once: "sex" for "sex=f" and "sex=m"."""
    column_of = {name: column.name for column in columns_with_a_kind(settings) for name in column.inputs}
    return list(dict.fromkeys(column_of.get(name, name) for name in inputs))


def declared_columns(settings: DataSettings) -> list[Column]:
    return [column_named(name, settings) for name in settings.columns]


def parse_columns(text: str, settings: DataSettings) -> list[Column]:
    """
    Return the columns in ``age,chol,sex=f|m``, as the command line takes them; a name without values is of the kind that the
    settings declare. Raises ConfigError.
    """
    columns = []
    for word in text.split(","):
        name, equals, values = word.strip().partition("=")
        if not name or (equals and not all(values.split("|"))):
            raise ConfigError(
                f"--columns {text!r}: write names separated by commas, a category with its values: age,chol,sex=f|m"
            )
        category = Column(name, tuple(values.split("|")), Kind.CATEGORY)
        columns.append(category if equals else column_named(name, settings))
    return columns


def with_declared_columns(settings: DataSettings, columns: Sequence[Column]) -> DataSettings:
    """Return the settings with these columns. Raises ValidationError for a name that is not printable."""

    def of_kind(kind: Kind) -> list[Column]:
        return [column for column in columns if column.kind is kind]

    update = {
        "columns": [column.name for column in columns],
        "categories": {column.name: list(column.values) for column in of_kind(Kind.CATEGORY)},
        "ordered": {column.name: list(column.values) for column in of_kind(Kind.ORDERED)},
        "dates": [column.name for column in of_kind(Kind.DATE)],
        "hashed": [column.name for column in of_kind(Kind.HASHED)],
        "target_encoded": [column.name for column in of_kind(Kind.TARGET)],
        "text": [column.name for column in columns if column.kind in FIXED_SCALE],
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
