"""
The same rows under another name: which changes are recognised, the share that is estimated, and which are not
recognised.
"""

import numpy as np
import pytest

from fedtl.data.source import Part as Stored
from fedtl.data.source import Raw
from fedtl.deployment.site.site_rows import raw_row_hashes
from fedtl.errors import LedgerDamaged
from fedtl.privacy import rows as module
from fedtl.privacy.rows import (
    MAX_SHARED,
    MIN_SAMPLE,
    Hashes,
    Part,
    RowSet,
    changed_rows,
    row_set,
    shared_rows,
)

KEY = b"k" * 32
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(200, 5)).astype(np.float32)
TABLE[:, 4] = RNG.integers(0, 2, 200)  # and one column of two values
LABELS = RNG.integers(0, 3, 200)
PIXELS = RNG.integers(0, 256, (60, 4, 4), dtype=np.uint8)
KNOWN = row_set([Part(TABLE, LABELS)], KEY)


def of(x, y=None, units=None, columns=()):
    return row_set([Part(x, LABELS[: len(x)] if y is None else y, units)], KEY, columns)


def table(**columns):
    names = tuple(columns)
    return raw_row_hashes(Raw(Stored(np.stack(list(columns.values()), 1), LABELS), columns=names), KEY)


def constant(x, value=7.0):
    return np.concatenate([x, np.full((len(x), 1), value, x.dtype)], 1)


ORDER = np.random.default_rng(1).permutation(200)
NEW = np.random.default_rng(2).normal(size=(400, 5)).astype(np.float32)
SAME = {
    "in another order": of(TABLE[ORDER], LABELS[ORDER]),
    "one row less": of(TABLE[1:]),
    "half of them": of(TABLE[::2]),
    "one in twenty of them": of(TABLE[::20]),
    "of one kind alone": of(TABLE[TABLE[:, 4] == 1]),  # where a column has become constant
    "with twice as many others": of(np.concatenate([TABLE, NEW]), np.zeros(600)),
    "every row twice": of(np.repeat(TABLE, 2, 0), np.repeat(LABELS, 2)),
    "a few of them, many times": of(np.repeat(TABLE[:12], 50, 0), np.zeros(600)),
    "a few of them, beside one other row a thousand times": of(
        np.concatenate([TABLE[:8], np.repeat(NEW[:1], 1000, 0)]), np.zeros(1008)
    ),
    "as float64": of(TABLE.astype(np.float64)),
    "with other labels": of(TABLE, 2 - LABELS),
    "with labels as text": of(TABLE, LABELS.astype(str)),
    "with units": of(TABLE, units=np.arange(200)),
    "columns in another order": of(TABLE[:, [3, 1, 4, 0, 2]]),
    "with a constant column": of(constant(TABLE)),
    "columns in another order and a constant one": of(constant(TABLE)[:, [5, 3, 1, 4, 0, 2]]),
    "split into two parts": row_set([Part(TABLE[:150], LABELS[:150]), Part(TABLE[150:], LABELS[150:])], KEY),
}


@pytest.mark.parametrize("how", SAME)
def test_same_rows_are_recognised(how):
    assert shared_rows(SAME[how], KNOWN).refused
    assert shared_rows(KNOWN, SAME[how]).refused


@pytest.mark.parametrize(
    "x",
    [
        PIXELS[..., None],
        PIXELS.astype(np.float32),
        PIXELS.astype(np.int64),
        PIXELS[::-1],
        PIXELS[:10],
    ],
)
def test_same_images_are_recognised(x):
    assert shared_rows(of(x), of(PIXELS)).refused


# What a hash of values cannot see; the steward's word is all that there is.
UNSEEN = {
    "scaled": of(TABLE * 10),
    "rounded": of(TABLE.round(1)),
    "with noise": of(TABLE + np.float32(1e-4)),
    "without a column that differs": of(TABLE[:, :3]),
    "with a column that differs": of(np.concatenate([TABLE, NEW[:200, :1]], 1)),
}


@pytest.mark.parametrize("how", UNSEEN)
def test_changes_that_are_not_recognised(how):
    assert shared_rows(UNSEEN[how], KNOWN).share == 0.0


def test_different_rows_share_nothing():
    assert shared_rows(of(NEW, np.zeros(400)), KNOWN).share == 0.0
    flags = [RNG.integers(0, 2, (200, 40)).astype(np.float32) for _ in range(2)]
    # Of 40 answers of yes or no every row differs, and so many yes have half of them.
    assert shared_rows(*(of(its) for its in flags)).share == 0.0


def test_named_columns_may_have_any_order():
    """Also if a row's values do not distinguish it once they are sorted."""
    flags = {name: RNG.integers(0, 2, 200).astype(np.float32) for name in "abcdefghijklmnop"}
    turned = dict(sorted(flags.items(), reverse=True))
    assert table(**flags).ordered == Hashes()
    assert table(**turned).fingerprint == table(**flags).fingerprint
    assert shared_rows(table(**turned), table(**flags)).share == 1.0


@pytest.mark.parametrize("common", [0, 3, 10, 11, 100, 200])
def test_share_equals_a_count_in_python(common):
    x = np.concatenate([TABLE[:common], NEW[: 200 - common]])
    found = shared_rows(of(x), KNOWN)
    both = len(set(map(bytes, x)) & set(map(bytes, TABLE)))
    assert (found.rows, found.share) == (both, pytest.approx(both / 200))
    assert found.refused == (both / 200 > MAX_SHARED)


def test_fingerprint_covers_everything_but_the_order():
    assert SAME["in another order"].fingerprint == KNOWN.fingerprint
    same = ("as float64", "with labels as text", "split into two parts")
    assert {SAME[how].fingerprint for how in same} == {KNOWN.fingerprint}
    others = ("one row less", "every row twice", "with other labels", "with units")
    assert len({KNOWN.fingerprint, *(SAME[how].fingerprint for how in others)}) == 5
    floats = [of(TABLE, np.linspace(0, 1, 200) + shift) for shift in (0.0, 0.25)]  # values to be regressed
    assert floats[0].fingerprint != floats[1].fingerprint
    assert row_set([Part(TABLE, LABELS)], b"another").fingerprint != KNOWN.fingerprint


def test_new_and_gone_rows_are_counted_with_repeats():
    now = of(np.concatenate([TABLE[10:], TABLE[10:13], NEW[:4]]), np.zeros(197))
    assert changed_rows(KNOWN, now) == (3 + 4, 10)
    assert changed_rows(KNOWN, KNOWN) == (0, 0)


def test_row_set_is_written_and_read_back():
    for its in (KNOWN, of(PIXELS), SAME["every row twice"]):
        assert RowSet.loaded(its.dumped()) == its
    for content in (b"", b"{}\n", b"[]"):
        with pytest.raises(LedgerDamaged):
            RowSet.loaded(content)


def test_hashes_with_different_keys_share_nothing():
    assert not set(KNOWN.stored.upto(module.MAX_HASH)[0]) & set(
        row_set([Part(TABLE, LABELS)], b"another").stored.upto(module.MAX_HASH)[0]
    )


@pytest.fixture
def sample(monkeypatch):
    """Return sets of which a sample of 500 rows is kept."""
    monkeypatch.setattr(module, "MAX_HASHES", 500)
    many = np.random.default_rng(3).normal(size=(20_000, 2)).astype(np.float32)
    return lambda rows: row_set([Part(many[rows], np.zeros(len(many[rows])))], KEY)


def test_share_is_estimated_from_a_sample_of_a_large_set(sample):
    known = sample(slice(0, 10_000))
    assert len(known.stored.values) == 8 * 500
    assert len(known.union(sample(slice(10_000, 20_000))).stored.values) == 8 * 500
    for common in (0, 1_000, 5_000, 10_000):
        found = shared_rows(sample(slice(10_000 - common, 20_000 - common)), known)
        true = common / 10_000
        sampled = 500  # of either; the standard error is sqrt(s (1 - s) / m)
        assert found.share == pytest.approx(true, abs=1e-9 + 4.5 * (true * (1 - true) / sampled) ** 0.5)
        assert found.refused == (true > MAX_SHARED)


def test_rows_are_refused_if_the_sample_is_too_small(sample):
    """
    1,000 rows and 10,000, of which every twentieth is kept: 50 rows are too few for a share of 5 %, 2,000 are
    enough.
    """
    few, more = (
        shared_rows(sample(slice(10_000, 10_000 + count)), sample(slice(0, 10_000)))
        for count in (1_000, 4_000)
    )
    assert (few.share, few.refused) == (None, True)
    assert (more.share, more.refused) == (0.0, False)
    assert (1 - MAX_SHARED) ** MIN_SAMPLE < 0.05 < (1 - MAX_SHARED) ** (MIN_SAMPLE - 2)


def test_a_mask_is_part_of_the_fingerprint():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (6, 4, 4), np.uint8), rng.integers(0, 2, (6, 4, 4)).astype(np.int16)
    other = y.copy()
    other[3, 1, 2] ^= 1
    one, same, changed = (
        row_set([Part(x, masks)], b"k").fingerprint for masks in (y, y.astype(np.uint8), other)
    )
    assert one == same != changed
