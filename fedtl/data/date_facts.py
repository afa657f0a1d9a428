"""Numbers that may be dates, and dates that may stand for a missing one."""

from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np

from fedtl.data.settings import DataSettings
from fedtl.data.source import Array

FEWEST = 3  # different values; fewer numbers are dates by chance
FIRST, LAST = 19000101, 21001231
# The first and last days of calendars and programs, which are entered where a date is not known or still to come.
PLACEHOLDERS = (
    *("0001-01-01", "1753-01-01", "1899-12-30", "1899-12-31", "1900-01-01", "1904-01-01", "1970-01-01"),
    *("2099-12-31", "2100-01-01", "2999-12-31", "9999-12-31"),
)


def dates_as_numbers(x: Array, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each column of whole numbers that all are dates such as 20240131, with the first one."""
    for name, column in zip(names, x.T, strict=True):
        values = np.unique(column[~np.isnan(column)])
        if (
            len(values) < FEWEST
            or values[0] < FIRST
            or values[-1] > LAST
            or (values != np.round(values)).any()
        ):
            continue
        if all(_is_date(int(value)) for value in values):
            yield name, int(column[~np.isnan(column)][0])


def _is_date(number: int) -> bool:
    try:
        return bool(date.fromisoformat(str(number)))
    except ValueError:
        return False


def placeholder_dates(
    x: Array, names: Sequence[str], settings: DataSettings
) -> Iterator[tuple[str, str, int]]:
    """Yield each column of dates with one that often stands for none, far from all others, and how often. ``names``: of the inputs."""
    start = date.fromisoformat(settings.reference_date)
    days = {(date.fromisoformat(one) - start).days: one for one in PLACEHOLDERS}
    for column in settings.dates:
        if (name := f"{column} days") not in names:
            continue
        values = np.floor(x[:, names.index(name)])
        for number, text in days.items():
            is_it = values == number
            others = values[~is_it & ~np.isnan(values)]
            if not is_it.any() or not len(others):
                continue
            spread = others.max() - others.min()
            if number < others.min() - spread or number > others.max() + spread:
                yield column, text, int(is_it.sum())
