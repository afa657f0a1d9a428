"""
How the cells of one column of a table become numbers, by the kind of the column (``data.columns``).

The silos must agree on the inputs without looking at each other's rows. So the values of a category are declared, or hashed,
and text in a column that is declared as nothing else is refused.
"""

import math
import re
from collections.abc import Hashable, Sequence
from datetime import time, timedelta
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.columns import Column, Kind
from fedtl.data.csv_files import CODE, has_decimal_comma, is_rounded, may_be_thousands
from fedtl.data.dates import date_advice, date_numbers
from fedtl.data.hashing import category_codes, hashed_inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import MAX_FLOAT32, Array, rounded_whole_number
from fedtl.data.tokens import token_codes
from fedtl.data.words import hashed_words
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 20  # that a message proposes for a column of text
# A number as people write it: -3 with a typographic minus, <0.5, $1,200.50, 12 345, 7.5 %, 40 mg, (12.50) and 12.50- for less than 0, 1D+02.
DECORATED_NUMBER = re.compile(
    r"[(<>≤≥=~≈±$€£¥\s]*[+\-\u2212\u2013]?\s*(\d{1,3}([,.'\u2019\s]\d{3})+|\d+)([.,]\d+)?([eEdD][+-]?\d+)?\s*([%‰°$€£¥)\-\u2212]|\s[^\W\d]\S{0,7})?"
)


def column_inputs(cells: "pd.Series", column: Column, settings: DataSettings, where: str) -> dict[str, Array]:
    """
    Return the inputs that a column becomes, by name: float64 [N], NaN where missing. ``where`` names the rows in messages. Raises
    DataError for a cell that cannot be read; with ``by_record`` it is missing instead, and changes no other row.
    """
    match column.kind:
        case Kind.CATEGORY:
            return _indicators(cells, column, settings, where)
        case Kind.ORDERED:
            return {column.name: _ranks(cells, column, settings, where)}
        case Kind.DATE:
            return date_numbers(_present(cells), column, settings, where)
        case Kind.HASHED:
            return dict(zip(column.inputs, hashed_inputs(_texts(cells), column.width).T, strict=True))
        case Kind.TEXT:
            return dict(zip(column.inputs, hashed_words(_texts(cells), column.width).T, strict=True))
        case Kind.TOKENS:
            codes = token_codes(_texts(cells), settings.tokenizer, column.width)
            return dict(zip(column.inputs, codes.T, strict=True))
        case Kind.TARGET:
            return {column.name: category_codes(_texts(cells))}
        case _:
            by_cell = settings.by_record
            return {column.name: numbers_by_cell(cells, settings) if by_cell else numbers(cells, where)}


def _indicators(cells: "pd.Series", column: Column, settings: DataSettings, where: str) -> dict[str, Array]:
    """
    Return one input of 0 and 1 for each value. A missing cell belongs to none of them; with ``by_record`` neither does a cell of
    another value, which is refused otherwise. Nothing is fitted, so scikit-learn's OneHotEncoder would replace only the
    comparison of texts, at the price of importing it to read a table.
    """
    spell = spelled_by_cell if settings.by_record else spelled
    texts = [None if cell is None else spell(cell) for cell in _present(cells)]
    if not settings.by_record:
        _check_declared(texts, column, "categories", where)
    return {
        name: np.array([text == spell(value) for text in texts], np.float64)
        for name, value in zip(column.inputs, column.values, strict=True)
    }


def _ranks(cells: "pd.Series", column: Column, settings: DataSettings, where: str) -> Array:
    """Return for each cell the number of its value in the list, from 0 [N]; NaN where missing, or with ``by_record`` not in the list."""
    texts = _texts(cells)
    if not settings.by_record:
        _check_declared(texts, column, "ordered", where)
    rank = {value: float(number) for number, value in enumerate(column.values)}
    return np.array([math.nan if text is None else rank.get(text, math.nan) for text in texts], np.float64)


def _check_declared(texts: Sequence[str | None], column: Column, key: str, where: str) -> None:
    """Raise DataError for a text that is not among the column's values."""
    if unknown := sorted({text for text in texts if text is not None} - set(column.values)):
        values = list(column.values)
        raise DataError(
            f"{where}: {column.name} holds {unknown[0]!r}, not in data.{key}.{column.name} = {values}"
        )


def _present(cells: "pd.Series") -> list[object]:
    """Return the cells, None where one is missing."""
    return [None if empty else cell for cell, empty in zip(cells, cells.isna(), strict=True)]


def _texts(cells: "pd.Series") -> list[str | None]:
    """Return the cells as they are written, None where one is missing."""
    return [None if cell is None else spelled(cell) for cell in _present(cells)]


def numbers(cells: "pd.Series", where: str) -> Array:
    """Return a column of numbers [N], NaN where missing. Raises DataError for text and for infinite values."""
    import pandas as pd

    present = cells.dropna()
    if not len(present):
        return np.full(len(cells), np.nan)
    numeric = pd.api.types.is_numeric_dtype(cells)
    rounded = [] if numeric else [cell for cell in present if isinstance(cell, str) and is_rounded(cell)]
    if not numeric and not rounded:
        raise DataError(f"{where}: {_text_problem(present, where)}")
    whole = rounded[0] if rounded else rounded_whole_number(np.asarray(present))
    if whole is not None:
        raise DataError(
            f"{where}: {cells.name} holds {whole}, which cannot be stored exactly in 64 bits; if it names the rows, list it in data.drop, otherwise "
            "subtract a constant from the column"
        )
    values = np.asarray(cells.to_numpy(np.float64, na_value=np.nan))
    if count := int(np.isinf(values).sum()):
        raise DataError(f"{where}: {cells.name} holds {count} infinite values; leave such cells empty")
    if (large := values[np.abs(values) > MAX_FLOAT32]).size:
        raise DataError(
            f"{where}: {cells.name} holds {len(large)} values beyond {MAX_FLOAT32:.2g}, such as {large[0]:g}; divide the column by a "
            "constant, or leave such cells empty"
        )
    return values


def _text_problem(present: "pd.Series", where: str) -> str:
    """Return what is wrong with a column that should hold numbers, and what to do. ``where``: the file, and perhaps the silo."""
    if not isinstance(first := present.iloc[0], Hashable):
        return f"{present.name} holds a {type(first).__name__} in a cell; write one value a cell, or list it in data.drop"
    if isinstance(first, timedelta | time):
        return f"{present.name} holds times ({spelled(first)!r}); write them as numbers in one unit, such as hours, or list it in data.drop"
    texts = [cell for cell in present if not is_number(cell)]
    categories = sorted(map(spelled, present.unique()))
    if texts and all(may_be_thousands(str(cell)) for cell in texts):
        advice = f"if the comma separates thousands, write plain numbers; if it is a decimal mark, {_with_point(present, where)}"
    elif texts and all(has_decimal_comma(str(cell)) for cell in texts):
        advice = f"if the comma is a decimal mark, {_with_point(present, where)}"
    elif not texts:
        text = next((cell for cell in present if isinstance(cell, str)), first)
        return f"{present.name} holds numbers stored as text ({text!r}); store them as numbers, or declare data.categories.{present.name}"
    elif len(texts) == len(present) and (dates := date_advice(texts, str(present.name))):
        advice = dates
    elif all(DECORATED_NUMBER.fullmatch(str(cell).strip()) for cell in texts):
        advice = "write plain numbers in one unit, without other signs, units or separators of thousands, and with - for minus; or list it in data.drop"
    elif len(texts) < len(present) / 2:
        advice = "leave such cells empty: empty cells are missing values"
    elif len(categories) > MAX_CATEGORIES:
        kind = "text" if sum(" " in text for text in categories) > len(categories) / 2 else "hashed"
        advice = (
            f"with {len(categories)} different values, more than the {MAX_CATEGORIES} to list in data.categories: set "
            f'data.{kind} = ["{present.name}"] or data.target_encoded = ["{present.name}"], or list it in data.drop, or the '
            "columns to use in data.columns"
        )
    else:
        advice = f"declare data.categories.{present.name} = {categories}, or list the columns to use in data.columns"
    example = spelled([*texts, present.iloc[0]][0])
    return f"{present.name} holds text ({example!r}) in {len(texts)} of {len(present)} rows; {advice}"


def _with_point(present: "pd.Series", where: str) -> str:
    """Return how a decimal comma is read: by a setting in a CSV file, and not at all where cells have a type."""
    if where.partition(", silo ")[0].lower().endswith(".csv"):
        return 'set data.decimal = ","'
    return f"store numbers, not text (in a query: CAST(REPLACE({present.name}, ',', '.') AS REAL))"


def numbers_by_cell(cells: "pd.Series", settings: DataSettings) -> Array:
    """Return each cell as a number, NaN if it is not one that float32 can hold; no cell changes how another is read."""
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(cells) or pd.api.types.is_timedelta64_dtype(cells):
        return np.full(len(cells), np.nan)  # pandas would count microseconds, also of a missing one
    if settings.decimal == "," and not pd.api.types.is_numeric_dtype(cells):
        # A point is not part of such a number; the numbers of Excel are not text.
        cells = cells.map(
            lambda cell: cell.replace(".", "?").replace(",", ".") if isinstance(cell, str) else cell
        )
    values: Array = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.abs(values) <= MAX_FLOAT32, values, np.nan)


def spelled(cell: object) -> str:
    """Return a cell as it is in the file: pandas reads whole numbers as floats if other cells of a column are empty."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def spelled_by_cell(cell: object) -> str:
    """Return a cell as text, where 3.0 and 3 are the same value and 007 is another than 7, whatever the other cells of its column are."""
    text = spelled(cell)
    if CODE.fullmatch(text):
        return text
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 2**53 else text


def is_number(cell: object) -> bool:
    """Return whether Python reads the cell's text as a number."""
    try:
        float(str(cell))
    except ValueError:
        return False
    return True
