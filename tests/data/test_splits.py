"""Stratified draws are a partition of the right size, in proportion, and depend on the generator alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedtl.data.splits import at_random, deal, deal_units, stratified

LABELS = st.lists(st.integers(0, 5), max_size=60).map(lambda y: np.array(y, np.int64))


@given(LABELS, st.integers(0, 70), st.integers(0, 9))
def test_drawn_and_rest_are_a_partition_of_the_right_size(y, count, seed):
    drawn, rest = stratified(y, count, np.random.default_rng(seed))
    assert sorted([*drawn, *rest]) == list(range(len(y)))
    assert len(drawn) == min(count, len(y))
    assert (np.diff(drawn) > 0).all()
    assert (np.diff(rest) > 0).all()


@given(LABELS, st.integers(0, 70), st.integers(0, 9))
def test_each_class_is_within_one_row_of_its_proportion(y, count, seed):
    drawn, _ = stratified(y, count, np.random.default_rng(seed))
    for label in set(y.tolist()):
        ideal = (y == label).sum() * min(count, len(y)) / len(y)
        assert abs((y[drawn] == label).sum() - ideal) < 1


@given(LABELS, st.integers(0, 70), st.integers(0, 9))
def test_equal_generators_draw_equal_rows(y, count, seed):
    first, second = (stratified(y, count, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    named = stratified(y.astype(str), count, np.random.default_rng(seed))
    assert np.array_equal(first[0], named[0])  # the names of the labels do not matter


def test_another_generator_draws_other_rows():
    y = np.zeros(100, int)
    assert not np.array_equal(*(stratified(y, 50, np.random.default_rng(seed))[0] for seed in (1, 2)))


@given(LABELS, st.integers(0, 70), st.integers(0, 9))
def test_the_type_of_the_labels_does_not_matter(y, count, seed):
    drawn, _ = stratified(y, count, np.random.default_rng(seed))
    for stored in (np.float32, np.float64, np.uint8, str, object):
        again, _ = stratified(y.astype(stored), count, np.random.default_rng(seed))
        assert np.array_equal(drawn, again)


def test_rows_without_classes_are_drawn_at_random():
    drawn, rest = at_random(20, 5, np.random.default_rng(0))
    assert sorted([*drawn, *rest]) == list(range(20))
    assert len(drawn) == 5


@given(LABELS, st.integers(2, 6), st.integers(0, 9))
def test_rows_are_dealt_to_folds_of_equal_size_and_so_is_each_class(y, folds, seed):
    fold = deal(y, folds, np.random.default_rng(seed))
    for rows in (fold, *(fold[y == label] for label in set(y.tolist()))):
        counts = np.bincount(rows, minlength=folds)
        assert len(counts) == folds
        assert counts.max() - counts.min() <= 1
    assert np.array_equal(fold, deal(y.astype(str), folds, np.random.default_rng(seed)))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(2, 5), st.integers(0, 9))
def test_units_are_dealt_whole_and_the_folds_differ_by_one_unit_at_most(units, folds, seed):
    units = np.array(units)
    fold = deal_units(units, folds, np.random.default_rng(seed))
    assert all(len(set(fold[units == unit])) == 1 for unit in units)
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.max() - sizes.min() <= np.unique(units, return_counts=True)[1].max()
