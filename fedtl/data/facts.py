"""
What a reader of a result should know of one silo's stored rows: copies, running numbers, columns that give the answer away.

Nothing here decides anything. Rows are compared by hashes with a key that is drawn for each process. Both are kept in memory alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from secrets import token_bytes

import numpy as np

from fedtl.data.date_facts import dates_as_numbers, placeholder_dates
from fedtl.data.decisive import FEW_VALUES, columns_together, decisive_columns
from fedtl.data.near_copies import NearRows, are_many, near_hashes, near_rows
from fedtl.data.odd_rows import blank_rows, far_values, other_scale, summary_row
from fedtl.data.pixels import is_pixels
from fedtl.data.settings import DataSettings
from fedtl.data.source import EXACT, Array, Raw, finite_numbers
from fedtl.data.streamed import blocks

KEY = token_bytes(32)  # of the hashes; never written

SENTINELS = (
    -999.0,
    -9999.0,
    -99.0,
    -9.0,
    999.0,
    9999.0,
    99999.0,
)  # numbers that often stand for a missing value
ROWS_LOOKED_AT = 2000  # for what a sample of the rows shows, spread evenly
COLUMNS_LOOKED_AT = 200
CHANCE = 10  # columns of fewer different values give the same row by chance


@dataclass(frozen=True)
class RowFacts:
    """
    ``repeated``: training rows that have the inputs of an earlier one, and ``leaked``: validation and test rows of the source
    that have those of a training row; ``near_leaked``: those that have nearly the inputs of one (``data.near_copies``), where these are
    many. By column: ``constant``; ``counting`` (each value one more than the last); ``running``
    (whole numbers, all different); ``copies`` (columns that another one determines, with its name); ``sentinels`` (the value
    that may stand for a missing one, and how often); ``thousands`` (a whole number and one with three decimals, where a mark
    that separates thousands may have been read as the decimal mark); ``decisive`` (columns that alone nearly determine the label, and how nearly: ``data.decisive``); ``together`` (columns of
    which a sum is the label, as of the other columns of a one-hot label); ``belonging`` (columns of which each value names several rows, all of
    one label, and how many values). ``brightest``:
    the largest pixel, of images of uint8 or uint16, and ``white``: the largest value of their type. ``summary``: the number of a row that
    sums up all others (``data.odd_rows``), and ``blank``: how many rows have no value. ``dated``: columns of numbers that are dates, with
    one, and ``placeholders``: columns of dates with one that may stand for none, and how often. ``telling``: properties that are no inputs
    and nearly determine the label, and how nearly. ``far``: columns with values far from all others, with the farthest and how many, and
    ``scales``: those that vary many times as much or as little in the test rows of the source, and how many times. ``uniform``: whether all
    images are equal.
    """

    repeated: int = 0
    leaked: int = 0
    near_leaked: int = 0
    constant: tuple[str, ...] = ()
    counting: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    sentinels: tuple[tuple[str, float, int], ...] = ()
    thousands: tuple[tuple[str, float, float], ...] = ()
    decisive: tuple[tuple[str, float], ...] = ()
    together: tuple[str, ...] = ()
    belonging: tuple[tuple[str, int], ...] = ()
    brightest: int | None = None
    white: int | None = None
    summary: int | None = None
    blank: int = 0
    far: tuple[tuple[str, float, int], ...] = ()
    scales: tuple[tuple[str, float], ...] = ()
    uniform: bool = False
    dated: tuple[tuple[str, int], ...] = ()
    placeholders: tuple[tuple[str, str, int], ...] = ()
    telling: tuple[tuple[str, float], ...] = ()


NO_FACTS = RowFacts()


@dataclass(frozen=True)
class RowHashes:
    """Hashes of the inputs of a silo's training rows, as they are and of what is nearly the same; none where equal rows are chance."""

    exact: frozenset[int] = frozenset()
    near: NearRows = field(default_factory=NearRows)


def row_facts(raw: Raw, settings: DataSettings, hidden: bool) -> tuple[RowFacts, RowHashes]:
    """
    Return the facts about a silo's rows, and hashes of the inputs of its training rows. ``hidden``: whether its labels
    must not be looked at.
    """
    train, near, pixels, brightest = list[int](), list[Sequence[Array]](), is_pixels(raw.train.x), 0
    for block in blocks(raw.train.x):
        train += row_hashes(block)
        near.append(_near_hashes(block, settings))
        brightest = max(brightest, int(block.max())) if pixels else 0
    facts = RowFacts(
        brightest=brightest if pixels else None,
        white=int(np.iinfo(raw.train.x.dtype).max) if pixels else None,
    )
    hashes = RowHashes()
    if can_tell_rows_apart(raw.train.x):
        exact = frozenset(train)
        levels = [] if settings.tokenizer else [np.concatenate(level) for level in zip(*near, strict=True)]
        hashes = RowHashes(exact, near_rows(levels, len(exact)))
        facts = replace(_with_leaks(facts, raw, settings, hashes), repeated=len(train) - len(exact))
    if raw.train.x.ndim == 2 and len(raw.columns) <= COLUMNS_LOOKED_AT and not settings.tokenizer:
        facts = _with_columns(facts, raw, settings, hidden)
    if settings.sequence is not None:
        facts = replace(facts, blank=blank_rows(finite_numbers(raw.train.x)))
    facts = replace(facts, uniform=raw.train.x.ndim > 2 and not can_tell_rows_apart(raw.train.x))
    facts = replace(facts, scales=tuple(_other_scales(raw, settings)))
    return replace(facts, telling=() if hidden else tuple(_telling(raw, settings))), hashes


def _other_scales(raw: Raw, settings: DataSettings) -> Iterator[tuple[str, float]]:
    """Yield the columns of test rows, or the values of their images, whose scale is not that of the training rows, and how many times it is."""
    if raw.test is None or settings.stream or settings.tokenizer:
        return
    if raw.train.x.ndim == 2:
        yield from other_scale(finite_numbers(raw.train.x), finite_numbers(raw.test.x), raw.columns)
    elif raw.test.x.shape[1:] == raw.train.x.shape[1:]:
        one, two = (finite_numbers(x[:ROWS_LOOKED_AT]).reshape(-1, 1) for x in (raw.train.x, raw.test.x))
        yield from other_scale(one, two, ("the values",))


def _telling(raw: Raw, settings: DataSettings) -> Iterator[tuple[str, float]]:
    """Yield the properties of the training rows that nearly determine the label, and how nearly."""
    if raw.properties and raw.train.y.ndim == 1:
        values = np.stack(list(raw.properties.values()), 1).astype(np.float64)
        yield from decisive_columns(values, raw.train.y, list(raw.properties), settings)


def _near_hashes(x: Array, settings: DataSettings) -> Sequence[Array]:
    return near_hashes(x, "series" if settings.sequence is not None else settings.kind, row_hashes)


def _with_leaks(facts: RowFacts, raw: Raw, settings: DataSettings, hashes: RowHashes) -> RowFacts:
    """Return the facts with how many validation and test rows of the source have the inputs of training rows, or nearly."""
    rows = leaked = near = 0
    for x in (block for part in (raw.val, raw.test) if part is not None for block in blocks(part.x)):
        same = np.array([row in hashes.exact for row in row_hashes(x)], bool)
        rows, leaked = rows + len(x), leaked + int(same.sum())
        if not settings.tokenizer:
            near += int((hashes.near.contain(_near_hashes(x, settings)) & ~same).sum())
    return replace(facts, leaked=leaked, near_leaked=near if are_many(near, rows) else 0)


def row_hashes(x: Array) -> list[int]:
    """Return a keyed 64-bit hash of the inputs of each row. Hashes of two processes cannot be compared."""
    flat = np.ascontiguousarray(x).reshape(len(x), -1)
    return [
        int.from_bytes(blake2b(row.tobytes(), digest_size=8, key=KEY).digest(), "big", signed=True)
        for row in flat
    ]


def can_tell_rows_apart(x: Array) -> bool:
    """Return whether equal rows are copies and not chance: of images, and of tables with a column of many values."""
    if x.ndim > 2:
        return any(bool((block != x[:1]).any()) for block in blocks(x))
    sample = x[:: max(1, len(x) // ROWS_LOOKED_AT)]
    return any(len(np.unique(column)) >= CHANCE for column in sample.T)


def _with_columns(facts: RowFacts, raw: Raw, settings: DataSettings, hidden: bool) -> RowFacts:
    x, names = finite_numbers(raw.train.x), raw.columns
    step = max(1, len(x) // ROWS_LOOKED_AT)
    sample, y = x[::step], raw.train.y[::step]
    varying = [number for number, column in enumerate(x.T) if not _is_constant(column)]
    some = np.isfinite(x).any(0)
    # The codes of values that target encoding replaces are not numbers.
    numbers = [n for n, name in enumerate(names) if name not in settings.target_encoded]
    own = [names[n] for n in numbers]
    counted = [n for n in varying if n in numbers]
    decisive = () if hidden else tuple(decisive_columns(sample, y, names, settings))
    return replace(
        facts,
        constant=tuple(name for n, name in enumerate(names) if some[n] and n not in varying),
        counting=tuple(names[n] for n in counted if _counts(x[:, n])),
        running=tuple(names[n] for n in counted if _is_running(x[:, n])),
        copies=tuple(_copies(sample[:, counted], [names[n] for n in counted])),
        sentinels=(*_sentinels(x[:, numbers], own), *([] if hidden else _sentinels(*_target(raw, settings)))),
        far=(*far_values(x[:, numbers], own), *([] if hidden else far_values(*_target(raw, settings)))),
        thousands=(*_thousands(x[:, numbers], own), *([] if hidden else _thousands(*_target(raw, settings)))),
        decisive=decisive,
        summary=None
        if hidden
        else summary_row(np.concatenate([x[:, numbers], _target(raw, settings)[0]], 1)),
        blank=blank_rows(x),
        dated=tuple(dates_as_numbers(x[:, numbers], own)),
        placeholders=tuple(placeholder_dates(x, names, settings)),
        belonging=()
        if hidden
        else tuple(_belonging(x, raw.train.y, names, [n for n in counted if names[n] not in dict(decisive)])),
        together=() if hidden else columns_together(sample, y, names, settings),
    )


def _is_constant(column: Array) -> bool:
    present = column[~np.isnan(column)]
    return not len(present) or bool((present == present[0]).all())


def _counts(column: Array) -> bool:
    return len(column) > 2 and bool((np.diff(column) == 1).all())


def _is_running(column: Array) -> bool:
    """Return whether the values are whole numbers, and all different."""
    if np.abs(column).max() >= EXACT:  # where every float is a whole number
        return False
    whole = bool((column == np.round(column)).all())  # False where one is missing
    return whole and len(column) > FEW_VALUES and len(np.unique(column)) == len(column)


def _belonging(
    x: Array, y: Array, names: Sequence[str], candidates: Sequence[int]
) -> Iterator[tuple[str, int]]:
    """
    Yield each of the ``candidates`` whose values are whole numbers that occur in several rows each, and in rows of one label only, as a
    number of a patient or a series does; with the number of values.
    """
    if y.ndim > 1 or len(labels := np.unique(y)) < 2:
        return
    label = np.searchsorted(labels, y)
    for number in candidates:
        column = x[:, number]
        if np.isnan(column).any() or (column != np.round(column)).any():
            continue
        values, which, counts = np.unique(column, return_inverse=True, return_counts=True)
        several = len(values) >= CHANCE and counts.min() > 1
        if several and len(np.unique(which * len(labels) + label)) == len(values):
            yield names[number], len(values)


def _copies(x: Array, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each column that is another one but for its unit, with the first such one."""
    complete = x[~np.isnan(x).any(1)]
    if len(complete) < FEW_VALUES or len(names) < 2:
        return
    spread = complete.std(0)
    kept = np.flatnonzero(spread > 0)
    scaled = (complete[:, kept] - complete[:, kept].mean(0)) / spread[kept]
    alike = np.abs(scaled.T @ scaled) / len(complete)
    for later in range(len(kept)):
        for earlier in range(later):
            indicators = set(complete[:, kept[later]].tolist()) <= {
                0.0,
                1.0,
            }  # of two categories, one is enough
            if alike[later, earlier] > 0.9999 and not indicators:
                yield names[kept[later]], names[kept[earlier]]
                break


def _sentinels(x: Array, names: Sequence[str]) -> Iterator[tuple[str, float, int]]:
    """Yield each column with a number that often stands for a missing value, far from all other values."""
    for name, column in zip(names, x.T, strict=True):
        for value in SENTINELS:
            is_it = column == value
            others = column[~is_it & ~np.isnan(column)]
            if not is_it.any() or not len(others):
                continue
            low, high = others.min(), others.max()
            if value < low - (high - low) or value > high + (high - low):
                yield name, value, int(is_it.sum())


def _target(raw: Raw, settings: DataSettings) -> tuple[Array, Sequence[str]]:
    """Return what a regression predicts, as a table of one column; of none for other tasks."""
    y = raw.train.y
    if settings.predicted.has_classes or y.ndim > 1:
        return np.zeros((len(y), 0)), ()
    return finite_numbers(y)[:, None], (settings.label,)


def _thousands(x: Array, names: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    """
    Yield each column whose numbers of 1,000 and more may have lost three digits: whole numbers from 100 to 999 occur together with fractions of
    three decimals, and nothing else does. A measured fraction is whole once in a thousand times.
    """
    for name, column in zip(names, x.T, strict=True):
        present = column[~np.isnan(column)]
        whole = present == np.round(present)
        parts, below = present[~whole], np.abs(present[whole])
        large = below[below >= 100]
        if len(parts) < 3 or len(large) < 2 or below.max() >= 1000 or np.abs(parts).min() < 1:
            continue
        digits = np.round(parts * 1000)
        if np.abs(parts * 1000 - digits).max() < 1e-6 and np.mean(digits % 10 != 0) > 0.5:
            yield name, float(large[0]), float(parts[0])
