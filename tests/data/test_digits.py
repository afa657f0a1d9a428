"""The default source: all of scikit-learn's digits, each in one silo, through six scanners."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedtl.data.digits import SCANNERS, read, read_digits, silos
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

PLAIN = DataSettings()
NEW = DataSettings(target_domain="plain")


def same(a, b):
    return np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y)


def test_the_digits_are_those_that_scikit_learn_reads():
    images, labels = read_digits()
    bunch = load_digits()
    assert np.array_equal(images, bunch.images)
    assert np.array_equal(labels, bunch.target)
    assert (images.dtype, labels.dtype) == (bunch.images.dtype, bunch.target.dtype)


def test_six_silos_hold_every_digit_once():
    assert silos(PLAIN) == ["plain", "inverted", "blurred", "faint", "rotated", "textured"]
    labels = np.concatenate([read(PLAIN, name).train.y for name in SCANNERS])
    assert len(labels) == 1797
    assert np.array_equal(np.bincount(labels), np.bincount(load_digits().target))


def test_no_digit_is_in_two_silos():
    """With the plain scanner for all silos, no image of the collection occurs in two of them."""
    names = list(SCANNERS)
    dealt = []
    for name in names:
        settings = DataSettings(target_domain="plain")
        raw = read(settings, name)
        dealt += [*raw.target, *raw.target_test.x]
    whole = [(image / 16 * 255).round().astype(np.uint8) for image in load_digits().images]
    keys = [image.tobytes() for image in whole]
    assert all(image.tobytes() in keys for image in dealt)
    assert max(sum(a.tobytes() == b.tobytes() for b in dealt) for a in dealt) <= max(map(keys.count, keys))


@pytest.mark.parametrize("name", SCANNERS)
def test_rows_are_pixels_and_the_same_each_time(name):
    raw = read(PLAIN, name)
    assert raw.train.x.dtype == np.uint8
    assert raw.train.x.shape == (len(raw.train.y), 8, 8)
    assert len(raw.train.y) in (299, 300)
    assert raw.val is raw.test is raw.target is None
    assert same(raw.train, read(PLAIN, name).train)


def test_scanners_differ():
    images = np.random.default_rng(0).random((5, 8, 8))
    seen = {name: scan(images, np.random.default_rng(0)) for name, scan in SCANNERS.items()}
    assert all(not np.allclose(seen[a], seen[b]) for a in seen for b in seen if a < b)
    means = {name: read(PLAIN, name).train.x.mean() for name in SCANNERS}
    assert means["inverted"] > 150 > 100 > means["plain"]


@pytest.mark.parametrize("name", SCANNERS)
def test_the_rows_of_the_second_domain_are_other_rows(name):
    raw, whole = read(NEW, name), read(PLAIN, name)
    assert len(raw.train.y) + len(raw.target) + len(raw.target_test.y) == len(whole.train.y)
    assert np.array_equal(raw.train.y, whole.train.y[: len(raw.train.y)])
    assert np.array_equal(raw.target_test.y, whole.train.y[-len(raw.target_test.y) :])
    again = read(NEW, name)
    assert np.array_equal(raw.target, again.target)
    assert same(raw.target_test, again.target_test)
    assert raw.target.shape[1:] == raw.target_test.x.shape[1:] == (8, 8)


def test_an_unknown_scanner_is_refused():
    with pytest.raises(DataError, match="data.target_domain = 'xray'"):
        silos(DataSettings(target_domain="xray"))


def test_a_name_that_the_digits_do_not_have_is_named_beside_those_that_they_have():
    with pytest.raises(DataError, match="no silo 'clinic'"):
        read(PLAIN, "clinic")
