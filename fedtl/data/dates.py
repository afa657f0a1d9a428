"""
Dates and times as inputs: days that passed since a public date, and the place of the weekday, the month and the hour on a
circle, where Sunday is next to Monday and December next to January.

Each cell is read by itself and the date to count from is a setting, so nothing is learned from rows.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from fedtl.data.columns import Column, date_inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import DataError

OTHER_FORMATS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M")
ISO = "a date such as 2024-03-31 or 2024-03-31T14:30"
DAY = timedelta(days=1)
WRITTEN = re.compile(
    r"(19|20)\d{6}(\.0)?"
)  # a date without marks, such as 20240231, even if the calendar has no such day
NUMBER = re.compile(r"\d+([.,]\d*)?")


def date_numbers(
    cells: Sequence[object], column: Column, settings: DataSettings, where: str
) -> dict[str, Array]:
    """
    Return the inputs of a column of dates by name, float64 [N], NaN where a cell is None: "days" since the beginning of
    ``data.reference_date``, with fractions; sine and cosine of the weekday of 7, the month of 12, the hour of 24. A time without
    an offset from UTC is of ``data.time_zone``; one with an offset is converted to it. Raises DataError for a cell that is no
    date, which with ``by_record`` is missing instead.
    """
    zone = ZoneInfo(settings.time_zone)
    moments = [None if cell is None else parse_moment(cell, settings.date_format, zone) for cell in cells]
    bad = [n for n, cell in enumerate(cells) if cell is not None and moments[n] is None]
    if bad and not settings.by_record:
        expected = f"a date as data.date_format = {settings.date_format!r}" if settings.date_format else ISO
        others = f" and {len(bad) - 1} more rows" if len(bad) > 1 else ""
        if not any(WRITTEN.fullmatch(str(cells[n]).strip()) for n in bad) and all(
            isinstance(cells[n], int | float) or NUMBER.fullmatch(str(cells[n]).strip()) for n in bad
        ):
            raise DataError(
                f"{where}: {column.name} holds the number {str(cells[bad[0]])!r} in data row {bad[0] + 1}{others}, which can count days, as in "
                "Excel, or seconds; write dates, or remove the column from data.dates, where all its cells are such numbers"
            )
        raise DataError(
            f"{where}: {column.name} holds {str(cells[bad[0]])!r} in data row {bad[0] + 1}{others}, which is not {expected}; set "
            'data.date_format, such as "%d.%m.%Y", correct the cell or leave it empty'
        )
    start = datetime.combine(date.fromisoformat(settings.reference_date), time(), zone).astimezone(UTC)
    missing = [math.nan] * sum(len(date_inputs(part)) for part in column.parts)
    rows = [missing if moment is None else _features(moment, start, column.parts) for moment in moments]
    return dict(zip(column.inputs, np.array(rows, np.float64).reshape(-1, len(missing)).T, strict=True))


def parse_moment(cell: object, form: str, zone: ZoneInfo) -> datetime | None:
    """Return the moment that a cell means, in this time zone; None if it is not a date. ``form``: as for strptime, "": ISO 8601."""
    try:
        if isinstance(cell, datetime):
            moment = cell
        elif isinstance(cell, date):
            moment = datetime.combine(cell, time())
        else:
            text = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
            moment = datetime.strptime(text, form) if form else datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment.astimezone(zone)
        moment.astimezone(UTC)  # or the first and the last day of the calendar overflow later
    except (ValueError, OverflowError):
        return None
    return moment


def _features(moment: datetime, start: datetime, parts: Sequence[str]) -> list[float]:
    """Return the inputs of one moment, in the order of ``Column.inputs``."""
    numbers: list[float] = []
    for part in parts:
        match part:
            case "days":
                numbers.append((moment.astimezone(UTC) - start) / DAY)
            case "weekday":
                numbers += _on_a_circle(moment.weekday() / 7)
            case "month":
                numbers += _on_a_circle((moment.month - 1) / 12)
            case "hour":
                numbers += _on_a_circle((moment.hour + moment.minute / 60) / 24)
    return numbers


def _on_a_circle(turn: float) -> tuple[float, float]:
    return math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)


def fitting_formats(cells: Sequence[object]) -> list[str]:
    """Return in which of the common formats every cell is a date; "" stands for ISO 8601."""
    return [
        form
        for form in ("", *OTHER_FORMATS)
        if cells and all(parse_moment(cell, form, ZoneInfo("UTC")) for cell in cells)
    ]


def date_advice(cells: Sequence[object], name: str) -> str:
    """Return what reads a column of text whose cells are all dates; "" where they are not."""
    fitting = fitting_formats(cells)
    if not fitting:
        mixed = bool(cells) and all(fitting_formats([cell]) for cell in cells)
        advice = f"these are dates in several formats: write all as 2024-03-31, or list {name} in data.drop"
        return advice if mixed else ""
    forms = " or ".join(f'"{form}"' for form in fitting if form)
    further = f" and data.date_format = {forms}" if "" not in fitting else ""
    return f'these are dates: set data.dates = ["{name}"]{further}, or list it in data.drop'
