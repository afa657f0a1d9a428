"""Which rows of a silo are trained on, validated on and tested on."""

from dataclasses import replace

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.data.splits import at_random, by_position, stratified, whole_units
from fedtl.errors import DataError


def in_parts(raw: Raw, settings: DataSettings, name: str, seed: int) -> tuple[Raw, Array]:
    """With test and val parts, taken from the training rows where the source has none; and the test rows' ids."""
    rng = numpy_generator("split", seed, name)
    ids = np.arange(0 if raw.test is None else len(raw.test.y))
    if raw.test is None:
        count = round(settings.test * _size(raw.train, settings))
        ids, rest = _drawn(raw.train, count, settings, rng)
        if raw.train.units is not None and count and not len(ids):
            unit, most = settings.unit_column, np.unique(raw.train.units, return_counts=True)[1].max()
            raise DataError(
                f"silo {name}: no {unit} has {count} rows or fewer to test on (the largest: {most} of "
                f"{len(raw.train.y)} rows); raise data.test"
            )
        raw = replace(raw, test=_take(raw.train, ids), train=_take(raw.train, rest))
    if raw.target is not None and raw.target_test is not None and raw.target is raw.target_test.x:
        held, rest = _drawn(
            replace(raw.target_test, units=None), round(settings.test * len(raw.target)), settings, rng
        )
        raw = replace(raw, target=raw.target[rest], target_test=_take(raw.target_test, held))
    if raw.val is None:
        budget = _size(raw.train, settings)
        if settings.limit:
            budget = min(budget, round(settings.limit / (1 - settings.val)))
        drawn, rest = _drawn(raw.train, round(settings.val * budget), settings, rng)
        raw = replace(raw, val=_take(raw.train, drawn), train=_take(raw.train, rest))
    if settings.limit:
        kept, _ = _drawn(raw.train, settings.limit, settings, rng)
        raw = replace(raw, train=_take(raw.train, kept))
    return raw, ids


def _drawn(part: Part, count: int, settings: DataSettings, rng: np.random.Generator) -> tuple[Array, Array]:
    """Somebody's rows are never in two parts: a test on people who were trained on would flatter."""
    if settings.by_record:
        return by_position(_slots(part), count, rng)
    if part.units is not None:
        return whole_units(part.units, count, rng)
    if settings.task == "regression":
        return at_random(len(part.y), count, rng)
    return stratified(part.y, count, rng)


def _slots(part: Part) -> Array:
    """[N]: each row's own position, or that of its unit among the sorted units."""
    if part.units is None:
        return np.arange(len(part.y))
    return np.asarray(np.unique(part.units, return_inverse=True)[1])


def _size(part: Part, settings: DataSettings) -> int:
    """What shares and limits count: rows; record by record, units, since one unit may have any number of rows."""
    if settings.by_record and part.units is not None:
        return len(np.unique(part.units))
    return len(part.y)


def _take(part: Part, rows: Array) -> Part:
    return Part(part.x[rows], part.y[rows], None if part.units is None else part.units[rows])
