"""Which rows of a silo are used for training, validation and testing."""

from dataclasses import replace

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.data.hidden import hides_labels, uses_missing
from fedtl.data.labels import without_label
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.data.splits import at_random, by_position, deal, deal_units, stratified, whole_units
from fedtl.errors import DataError


def split_rows(raw: Raw, settings: DataSettings, silo: str, seed: int) -> tuple[Raw, Array]:
    """
    Return the rows with a test and a validation part, and the permanent numbers of the test rows.

    A part that the source does not give is drawn from the training rows; the draw depends on ``seed`` and ``silo`` alone, and
    with ``settings.folds`` on ``settings.fold``. Where labels are not used, it does not look at them. Rows that have none
    (``settings.missing_labels``) stay training rows, at most ``settings.limit`` of them. Raises DataError.
    """
    if not uses_missing(settings, silo):
        return _split(raw, settings, silo, seed)
    missing = without_label(raw.train.y)
    known, others = np.flatnonzero(~missing), raw.train.take(np.flatnonzero(missing))
    split, ids = _split(replace(raw, train=raw.train.take(known)), settings, silo, seed)
    others = _not_judged(others, split)
    if settings.limit:
        others = others.take(
            at_random(len(others.y), settings.limit, numpy_generator("unlabelled", seed, silo))[0]
        )
    train = _with(split.train, others)
    return replace(split, train=train), ids if raw.test is not None else known[ids]


def _not_judged(rows: Part, split: Raw) -> Part:
    """Return those rows that are of no unit that is validated or tested on."""
    if rows.units is None:
        return rows
    judged = [part.units for part in (split.val, split.test) if part is not None and part.units is not None]
    return rows.take(
        np.flatnonzero(~np.isin(rows.units, np.concatenate(judged))) if judged else np.arange(len(rows.y))
    )


def _with(rows: Part, others: Part) -> Part:
    """Return the rows of both."""
    units = None
    if rows.units is not None and others.units is not None:
        units = np.concatenate([rows.units, others.units])
    return Part(np.concatenate([rows.x, others.x]), np.concatenate([rows.y, others.y]), units)


def _split(raw: Raw, settings: DataSettings, silo: str, seed: int) -> tuple[Raw, Array]:
    rng = numpy_generator("split", seed, silo)
    ids = np.arange(0 if raw.test is None else len(raw.test.y))
    if settings.folds > 1:
        ids, rest = _deal_test_rows(raw, settings, silo, rng)
        raw = replace(raw, test=raw.train.take(ids), train=raw.train.take(rest))
        rng = numpy_generator("split", seed, silo, settings.folds, settings.fold)
    elif raw.test is None:
        ids, rest = _draw_test_rows(raw.train, settings, silo, rng)
        raw = replace(raw, test=raw.train.take(ids), train=raw.train.take(rest))
    if raw.target is not None and raw.target_test is not None and raw.target_to_split:
        by_row = replace(raw.target_test, units=None)
        drawn, rest = _draw(by_row, round(settings.test * len(raw.target)), settings, silo, rng)
        raw = replace(raw, target=raw.target[rest], target_test=raw.target_test.take(drawn))
    if raw.val is None:
        available = _size(raw.train, settings)
        if settings.limit:
            available = min(available, round(settings.limit / (1 - settings.val)))
        drawn, rest = _draw(raw.train, round(settings.val * available), settings, silo, rng)
        raw = replace(raw, val=raw.train.take(drawn), train=raw.train.take(rest))
    if settings.limit:
        drawn, _ = _draw(raw.train, settings.limit, settings, silo, rng)
        raw = replace(raw, train=raw.train.take(drawn))
    return raw, ids


def _deal_test_rows(
    raw: Raw, settings: DataSettings, silo: str, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the indices of the rows of this fold and of the rest. Raises DataError."""
    for name, part in (("test", raw.test), ("validation", raw.val)):
        if part is not None:
            raise DataError(
                f"silo {silo} comes with {len(part.y)} {name} rows of its own, so with folds not every row could be tested; "
                f"set compare.folds = 1, or give all rows as training rows if the {name} rows are a random part of them"
            )
    part, folds = raw.train, settings.folds
    count = len(part.y) if part.units is None else len(np.unique(part.units))
    if count < folds:
        what = (
            "rows"
            if part.units is None
            else f"different values of {settings.unit_column}"
            if settings.unit_column
            else "files"
        )
        raise DataError(f"silo {silo} has {count} {what}, too few for {folds} folds; lower compare.folds")
    if settings.by_record:
        positions = _positions(part)
        of_row = deal(np.zeros(count, int), folds, rng)[positions]
    elif part.units is not None:
        of_row = deal_units(part.units, folds, rng)
    else:
        of_row = deal(_strata(part, settings, silo), folds, rng)
    return np.flatnonzero(of_row == settings.fold), np.flatnonzero(of_row != settings.fold)


def _draw_test_rows(
    part: Part, settings: DataSettings, silo: str, rng: np.random.Generator
) -> tuple[Array, Array]:
    count = round(settings.test * _size(part, settings))
    drawn, rest = _draw(part, count, settings, silo, rng)
    if part.units is not None and count and not len(drawn):
        largest = np.unique(part.units, return_counts=True)[1].max()
        raise DataError(
            f"silo {silo}: every {settings.unit_column or 'file'} has more than the {count} rows that data.test gives "
            f"(the largest has {largest} of {len(part.y)}), so none can be tested on; increase data.test"
        )
    return drawn, rest


def _draw(
    part: Part, count: int, settings: DataSettings, silo: str, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the indices of ``count`` rows and of the rest. A unit's rows stay together, or a test would be too easy."""
    if settings.by_record:
        return by_position(_positions(part), count, rng)
    if part.units is not None:
        return whole_units(part.units, count, rng)
    return stratified(_strata(part, settings, silo), count, rng)


def _strata(part: Part, settings: DataSettings, silo: str) -> Array:
    """Return what each part gets in proportion [N]: the classes, or one stratum of all rows where labels must not be seen."""
    if not settings.predicted.has_classes or hides_labels(settings, silo):
        return np.zeros(len(part.y), int)
    return part.y


def _positions(part: Part) -> Array:
    """Return each row's own position [N], or that of its unit among the sorted units."""
    if part.units is None:
        return np.arange(len(part.y))
    return np.asarray(np.unique(part.units, return_inverse=True)[1])


def _size(part: Part, settings: DataSettings) -> int:
    """Return what shares and limits count: rows, or units with ``by_record``, where a unit may have any number of rows."""
    if settings.by_record and part.units is not None:
        return len(np.unique(part.units))
    return len(part.y)
