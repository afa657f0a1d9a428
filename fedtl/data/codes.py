"""Which cells of a CSV file can be codes where a reader takes them for numbers, such as 007 and the diagnosis 1E11."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from fedtl.data.settings import DataSettings

if TYPE_CHECKING:
    import pandas as pd

CODES = (
    "codes"  # the key of a table's ``attrs``: by column, a cell that is read as a number and can be a code
)


def named_columns(settings: DataSettings) -> frozenset[str]:
    """Return the columns whose cells name something: a class, a silo, a unit, a domain, a series or a category."""
    names = {settings.silo_column, settings.unit_column, settings.domain_column, *settings.categories}
    if settings.predicted.has_classes and settings.positive_above is None:
        names.add(settings.label)
    if settings.sequence is not None:
        names.add(settings.sequence.id)
    return frozenset(names - {""})


def codes_as_numbers(frame: "pd.DataFrame", inputs: Collection[str]) -> tuple[str, ...]:
    """Return a line for each input whose cells are read as numbers, and can be codes."""
    codes: dict[str, str] = frame.attrs.get(CODES, {})
    return tuple(
        f"{name} holds {cell}, which is read as the number {float(cell):.17g}; if it is a code, list it in data.hashed, or declare "
        f"data.categories.{name}"
        for name, cell in codes.items()
        if name in inputs
    )
