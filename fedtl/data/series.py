"""
Series of measurements (``data.sequence``): arrays [N, T, C] of N series with T steps of C channels, and tables with one row a
step. A missing value, and a step after the end of a shorter series, is NaN, which takes the channel's fill value.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.frame import (
    REMARKS,
    check_columns_with_a_use,
    column_of,
    frame_inputs,
    labels_of,
    texts_of,
    units_of,
)
from fedtl.data.settings import DataSettings, SequenceSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 2  # of the length of a step that are kept
UNEVEN = 1.5  # times the shortest interval; months differ by less


def series_of_array(x: Array, sequence: SequenceSettings, where: str) -> tuple[Array, tuple[str, ...]]:
    """
    Return series as floats [N, T, C], T being ``sequence.length`` where it is set, and a line on what was cut or padded. ``x``: [N, T]
    with one channel, [N, T, C], or with ``sequence.channels_first`` [N, C, T]. Raises DataError.
    """
    if x.ndim not in (2, 3) or x.dtype.kind not in "uif" or not all(x.shape[1:]):
        raise DataError(
            f"{where} is {x.dtype} of shape {list(x.shape)}; data.sequence needs numbers [N, steps, channels], or [N, channels, "
            "steps] with channels_first = true"
        )
    if x.ndim == 2:
        x = x[:, :, None]
    elif sequence.channels_first:
        x = np.moveaxis(x, 1, 2)
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    if sequence.length is None or sequence.length == x.shape[1]:
        return x, ()
    return of_length([*x], sequence.length, x.shape[2])


def of_length(series: Sequence[Array], length: int, channels: int) -> tuple[Array, tuple[str, ...]]:
    """Return series [T_i, C] as one array [N, length, C]: the first steps of longer ones, NaN at the end of shorter ones."""
    every = np.full((len(series), length, channels), np.nan)
    for row, one in zip(every, series, strict=True):
        row[: len(one)] = one[:length]
    steps = np.array([len(one) for one in series])
    cut, short = steps > length, steps < length
    lines = []
    if cut.any():
        lines.append(
            f"the steps after data.sequence.length = {length} of {cut.sum()} of {len(series)} series are not read; the longest has "
            f"{steps.max()} steps"
        )
    if short.any():
        lines.append(
            f"{short.sum()} of {len(series)} series have fewer steps than data.sequence.length = {length}; the rest is missing values"
        )
    return every, tuple(lines)


def series_of_frame(frame: "pd.DataFrame", settings: DataSettings, where: str, unused: bool = False) -> Raw:
    """
    Return the series of a table with one row a step: rows of one ``sequence.id`` are a series, in the order of ``sequence.time``.
    Label and unit must be the same in all rows of a series; the label not where it is ``unused``. Raises DataError.
    """
    check_columns_with_a_use(frame, settings, where)
    names, x, _, order, starts, steps, lines = _series(frame, settings, where)
    rows = frame.iloc[order]
    firsts = rows.iloc[starts]
    for key in ("label", "unit_column"):
        if (column := getattr(settings, key)) and not (unused and key == "label"):
            _check_constant(rows, column, starts, settings, where)
    part = Part(x, labels_of(firsts, settings, where), units_of(firsts, settings, where))
    counts = np.diff([*starts, len(order)])
    return Raw(
        *(part, None, None, None, None, names, lines),
        spacings=steps,
        remarks=frame.attrs.get(REMARKS, ()),
        properties={"the number of steps": counts},
    )


def known_series(
    frame: "pd.DataFrame", settings: DataSettings, columns: Sequence[str], where: str
) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
    """
    Return series [N, T, C] with the channels ``columns`` of a model, in its order, the id of each, and a line on what was cut or
    padded. Raises DataError for a channel that is missing.
    """
    own = settings.model_copy(update={"columns": list(columns), "drop": []})
    _, x, ids, _, _, _, lines = _series(frame, own, where)
    return x, tuple(ids.tolist()), lines


def _series(
    frame: "pd.DataFrame", settings: DataSettings, where: str
) -> tuple[tuple[str, ...], Array, Array, Array, Array, Mapping[tuple[float, ...], int], tuple[str, ...]]:
    """
    Return the names of the channels, the series [N, T, C], their ids [N] in the order of the text, the order of the rows by series and
    time, the place of each series' first row in it, how many series have steps of which length, and a line on what was cut or padded.
    """
    sequence = settings.sequence
    assert sequence is not None
    assert sequence.length is not None
    names, x = frame_inputs(frame, settings, where)
    cells = column_of(frame, sequence.id, where, "data.sequence.id")
    if count := int(cells.isna().sum()):
        raise DataError(f"{where}: {count} of {len(cells)} rows have no {sequence.id!r}; remove them")
    ids, which = np.unique(texts_of(cells.to_numpy(object)), return_inverse=True)
    time = _times(frame, sequence, where)
    order = np.lexsort((time, which))
    starts = np.searchsorted(which[order], np.arange(len(ids)))
    same = (np.diff(which[order]) == 0) & (np.diff(time[order]) == 0)
    if same.any():
        row = order[np.flatnonzero(same)[0]]
        raise DataError(
            f"{where}: {same.sum()} rows have the {sequence.id} and {sequence.time} of another row ({str(ids[which[row]])!r}, {time[row]:g}); "
            "keep one row for each step"
        )
    made, lines = of_length(np.split(x[order], starts[1:]), sequence.length, len(names))
    times = np.split(time[order], starts[1:])
    return names, made, ids, order, starts, _steps(times), (*lines, *_uneven(times, sequence))


def _steps(times: Sequence[Array]) -> Mapping[tuple[float, ...], int]:
    """Return how many series have steps of which length in the middle. ``times``: of each series, ascending."""
    lengths = [float(np.median(np.diff(one))) for one in times if len(one) > 1]
    return Counter((float(f"{length:.{DIGITS}g}"),) for length in lengths)


def _uneven(times: Sequence[Array], sequence: SequenceSettings) -> Iterator[str]:
    """Yield a line where series have steps that lie further apart than others, as around a gap. ``times``: of each series, ascending."""
    steps = [np.diff(one) for one in times if len(one) > 2]
    if uneven := sum(bool(one.max() > UNEVEN * one.min()) for one in steps):
        yield (
            f"{sequence.time} is read only for the order of steps, but in {uneven} of {len(times)} series the steps are not evenly spaced; "
            "add the time since the last step as a column, or the missing steps as rows with empty cells"
        )


def _times(frame: "pd.DataFrame", sequence: SequenceSettings, where: str) -> Array:
    """Return the time of each row [N]: numbers, or dates as seconds. Raises DataError for anything else."""
    import pandas as pd

    column = column_of(frame, sequence.time, where, "data.sequence.time")
    values = pd.to_numeric(column, errors="coerce")
    if values.isna().any() and not pd.api.types.is_numeric_dtype(column):
        values = pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True)
        values = (values - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    if count := int(values.isna().sum()):
        example = column[values.isna()].iloc[0]
        raise DataError(
            f"{where}: {sequence.time} is {example!r} in {count} of {len(column)} rows; write numbers, or dates as 2026-01-31 10:15:00"
        )
    return np.asarray(values.to_numpy(np.float64))


def _check_constant(
    rows: "pd.DataFrame", column: str, starts: Array, settings: DataSettings, where: str
) -> None:
    """Raise DataError where a series has two values in a column, such as two labels. ``rows``: by series and time."""
    assert settings.sequence is not None
    cells = texts_of(column_of(rows, column, where, "data.label").to_numpy(object))
    counts = np.diff([*starts, len(cells)])
    if len(different := np.flatnonzero(cells != np.repeat(cells[starts], counts))):
        row = rows.iloc[different[0]]
        raise DataError(
            f"{where}: {settings.sequence.id} {row[settings.sequence.id]!r} has rows of different {column}; a series has one"
        )
