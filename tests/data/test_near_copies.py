"""Rows that are nearly copies: found where they were written anew, and not where they are alike by chance."""

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from fedtl.data import facts
from fedtl.data.facts import row_facts
from fedtl.data.near_copies import near_pairs
from fedtl.data.settings import DataSettings, SequenceSettings
from fedtl.data.source import Part, Raw

RNG = np.random.default_rng(0)
TABLE, ARRAYS = DataSettings(source="table"), DataSettings(source="npz")
SERIES = DataSettings(source="npz", sequence=SequenceSettings())


def read(x, settings=TABLE, test=None):
    columns = tuple(f"v{number}" for number in range(x.shape[1])) if x.ndim == 2 else ()
    rows = Part(x, np.arange(len(x)) % 2)
    return row_facts(Raw(rows, test=test, columns=columns), settings, True)


def pairs(settings, *silos):
    found = {str(number): read(x, settings)[1] for number, x in enumerate(silos)}
    same = {pair: len(found[pair[0]].exact & found[pair[1]].exact) for pair in combinations(found, 2)}
    return list(near_pairs({name: own.near for name, own in found.items()}, same))


def pictures(count=60, side=32):
    """Smooth ones, as photographs are."""
    small = RNG.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.BICUBIC)) for one in small])


def as_jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


def as_smaller(image):
    return np.asarray(Image.fromarray(image).resize((24, 24), Image.BILINEAR))


@pytest.mark.parametrize(
    "written",
    [
        lambda x: x + 1e-7,
        lambda x: x.round(4),
        lambda x: x.astype(np.float32).astype(float),
        lambda x: -(-x + 1e-9),
    ],
)
def test_a_table_written_with_other_digits(written):
    x = RNG.normal(size=(90, 3)) * [1, 1e4, 1e-3] if written(np.ones(1)) != 1 else RNG.normal(size=(90, 3))
    x[::9, 1] = np.nan
    ((one, other, count),) = pairs(TABLE, x, RNG.normal(size=(90, 3)), written(x[::-1]))
    assert (one, other) == ("0", "2")
    assert count > 70


def test_rows_that_are_equal_are_no_near_copies():
    x = RNG.normal(size=(90, 3))
    assert pairs(TABLE, x, x) == []
    half = x.copy()
    half[:40] += 1e-7
    ((_, _, count),) = pairs(TABLE, x, half)
    assert count == pytest.approx(40, abs=2)


@pytest.mark.parametrize(
    "written",
    [as_jpeg, as_smaller, lambda image: np.repeat(image.mean(2, keepdims=True), 3, 2).astype(np.uint8)],
)
def test_pictures_saved_anew(written):
    x = pictures()
    ((one, other, count),) = pairs(ARRAYS, x, pictures(), np.stack([written(image) for image in x]))
    assert (one, other) == ("0", "2")
    assert count > 15


def test_series_and_volumes_with_a_little_noise():
    x = RNG.normal(size=(60, 40, 2)).cumsum(1)
    assert [pair[:2] for pair in pairs(SERIES, x, x + 1e-7, x[:, ::-1])] == [("0", "1")]
    volumes = RNG.normal(size=(60, 5, 8, 8))
    chosen = ARRAYS.model_copy(update={"kind": "volumes"})
    assert [pair[:2] for pair in pairs(chosen, volumes, volumes + 1e-7, -volumes)] == [("0", "1")]


def test_test_rows_of_the_source_that_are_nearly_training_rows():
    x = RNG.normal(size=(90, 3))
    test = np.concatenate([x[:30] + 1e-7, x[30:40], RNG.normal(size=(40, 3))])
    made, _ = read(x, test=Part(test, np.zeros(80)))
    assert made.leaked == 10
    assert made.near_leaked == pytest.approx(30, abs=2)
    made, _ = read(x, test=Part(RNG.normal(size=(80, 3)), np.zeros(80)))
    assert (made.leaked, made.near_leaked) == (0, 0)


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("count", [20, 60, 400])
def test_rows_are_not_taken_for_copies_by_chance(columns, count):
    for draw in (
        lambda: RNG.normal(size=(count, columns)),
        lambda: RNG.normal(50, 10, size=(count, columns)).round(),  # whole numbers, such as an age
        lambda: RNG.exponential(size=(count, columns)).round(2),
        lambda: 1.7e9 + RNG.normal(size=(count, columns)),  # whose first digits are all the same
    ):
        assert pairs(TABLE, draw(), draw(), draw()) == []


def test_real_rows_are_not_taken_for_copies():
    for load in (datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer, datasets.load_diabetes):
        x = load().data
        assert pairs(TABLE, *np.array_split(x[RNG.permutation(len(x))], 3)) == []
    digits = datasets.load_digits().images.astype(np.uint8)[RNG.permutation(1797)] * 15
    assert pairs(ARRAYS, *np.array_split(digits, 3)) == []
    dark = np.zeros((60, 16, 16), np.uint8)
    dark[:, 0, 0] = np.arange(60)  # coarse brightness says nothing of such images
    assert pairs(ARRAYS, dark, dark + 1) == []


def test_hashes_of_another_process_cannot_be_compared(monkeypatch):
    x = RNG.normal(size=(90, 3))
    before = read(x)[1].near.levels
    monkeypatch.setattr(facts, "KEY", bytes(32))
    after = read(x)[1].near.levels
    assert not any(np.isin(one, other).any() for one, other in zip(before, after, strict=True))
