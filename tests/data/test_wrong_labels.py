"""Wrong labels are as many as asked, never the right one, and only where they were asked for; row numbers lead back to the rows."""

from dataclasses import replace

import numpy as np
import pytest

from fedtl.data.hidden import hide_labels
from fedtl.data.parts import split_rows
from fedtl.data.row_numbers import training_row_numbers, unlabelled_row_numbers
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.data.wrong_labels import replaced, with_wrong_labels
from fedtl.errors import DataError


def raw(n=200):
    rng = np.random.default_rng(0)
    return Raw(Part(rng.normal(size=(n, 3)), rng.choice(np.array(["a", "b", "c"]), n)))


def test_a_share_of_the_labels_is_another_class_and_test_labels_are_not_touched():
    settings = DataSettings(wrong_labels={"s": 0.4})
    before, _ = split_rows(raw(), settings, "s", 0)
    after = with_wrong_labels(before, settings, "s", 0)
    for part in ("train", "val"):
        old, new = getattr(before, part).y, getattr(after, part).y
        assert (old != new).sum() == round(0.4 * len(old))
        assert set(new) <= {"a", "b", "c"}
    assert after.test is before.test
    assert with_wrong_labels(before, settings, "another", 0) is before


@pytest.mark.parametrize(("labels", "missing"), [(["a", "b"], ""), ([0.0, 1.0], np.nan)])
def test_a_row_without_a_label_stays_without_one(labels, missing):
    settings = DataSettings(wrong_labels={"s": 0.5}, missing_labels="inputs")
    y = np.random.default_rng(0).choice(np.array([*labels, missing]), 200)
    rows = Part(np.zeros((200, 1)), y)
    before = Raw(rows, rows, rows)
    after = with_wrong_labels(before, settings, "s", 0)
    for part in ("train", "val"):
        old, new = getattr(before, part).y, getattr(after, part).y
        known = np.isin(old, labels)
        assert 0 < known.sum() < len(old)
        assert np.array_equal(np.isin(new, labels), known)
        assert (old != new)[known].sum() == round(0.5 * known.sum())


def test_a_silo_without_labels_cannot_have_wrong_ones():
    settings = DataSettings(wrong_labels={"s": 0.5}, missing_labels="inputs")
    part = Part(np.zeros((20, 1)), np.full(20, ""))
    with pytest.raises(DataError, match="no training row"):
        with_wrong_labels(Raw(part, part, part), settings, "s", 0)


def test_each_other_class_is_equally_likely():
    y = np.zeros(6000, int)
    changed = replaced(y, np.arange(4), 1.0, np.random.default_rng(1))
    assert np.bincount(changed, minlength=4) / 6000 == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.02)


def test_one_class_cannot_be_replaced():
    settings = DataSettings(wrong_labels={"s": 0.4})
    same = Raw(Part(np.zeros((20, 1)), np.zeros(20)))
    with pytest.raises(DataError, match="wrong_labels"):
        with_wrong_labels(split_rows(same, settings, "s", 0)[0], settings, "s", 0)


@pytest.mark.parametrize(
    "settings", [DataSettings(limit=30), DataSettings(label_fraction={"s": 0.3}, limit=90)]
)
def test_row_numbers_are_those_of_the_stored_rows(settings):
    rows = raw()
    trained = hide_labels(split_rows(rows, settings, "s", 5)[0], settings, "s", 5)[0].train
    numbers = training_row_numbers(rows, settings, "s", 5)
    assert np.array_equal(rows.train.x[numbers], trained.x)
    assert np.array_equal(rows.train.y[numbers], trained.y)


def test_row_numbers_are_right_where_some_labels_are_wrong_and_some_hidden():
    settings = DataSettings(wrong_labels={"s": 0.3}, label_fraction={"s": 0.3})
    rows = raw()
    used = with_wrong_labels(split_rows(rows, settings, "s", 5)[0], settings, "s", 5)
    trained = hide_labels(used, settings, "s", 5)[0].train
    assert np.array_equal(rows.train.x[training_row_numbers(rows, settings, "s", 5)], trained.x)


@pytest.mark.parametrize(
    "settings", [DataSettings(unlabelled=["s"], limit=30), DataSettings(label_fraction={"s": 0.3})]
)
def test_row_numbers_without_a_label_are_those_of_the_stored_rows(settings):
    rows = raw()
    hidden = hide_labels(split_rows(rows, settings, "s", 5)[0], settings, "s", 5)[1]
    numbers = unlabelled_row_numbers(rows, settings, "s", 5)
    assert np.array_equal(rows.train.x[numbers], np.concatenate([hidden.train, hidden.val]))
    own = replace(rows, val=rows.train.take(np.arange(7)))
    hidden = hide_labels(split_rows(own, settings, "s", 5)[0], settings, "s", 5)[1]
    both = np.concatenate([own.train.x, own.val.x])
    assert np.array_equal(
        both[unlabelled_row_numbers(own, settings, "s", 5)], np.concatenate([hidden.train, hidden.val])
    )
