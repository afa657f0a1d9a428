"""What a reader should know of a silo's rows, against rows that were made to have it."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import datasets
from sklearn.metrics import roc_auc_score

from fedtl.data.decisive import decisive_columns
from fedtl.data.facts import NO_FACTS, row_facts
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.data.spellings import spelled_alike

RNG = np.random.default_rng(0)
PLAIN = DataSettings(source="table")
Y = np.arange(60) % 2


def facts_of(x, y=Y, settings=PLAIN, hidden=False, **parts):
    x = np.asarray(x, float)
    names = tuple("abcdefgh"[: x.shape[1]])
    return row_facts(Raw(Part(x, y), columns=names, **parts), settings, hidden)[0]


def noise(columns=2):
    return RNG.normal(size=(60, columns))


def with_column(values):
    return np.column_stack([noise(), values])


def test_sound_rows_have_nothing_to_tell():
    assert facts_of(noise(4)) == NO_FACTS
    pixels = RNG.integers(0, 256, (60, 4, 4)).astype(np.uint8)
    made, hashes = row_facts(Raw(Part(pixels, Y)), PLAIN, False)
    assert made.brightest == pixels.max()
    assert made.repeated == 0
    assert len(hashes.exact) == 60


def test_rows_that_occur_several_times():
    x = noise()
    x[20:40], x[40:] = x[:20], x[:20]
    test = Part(np.concatenate([x[:5], noise()[:5]]), Y[:10])
    made = facts_of(x, test=test)
    assert (made.repeated, made.leaked) == (40, 5)
    few_values = RNG.integers(0, 3, (60, 2))
    assert facts_of(few_values).repeated == 0


@pytest.mark.parametrize(
    ("values", "counting", "running"),
    [
        (np.arange(60), ("c",), ("c",)),
        (RNG.permutation(60) + 1000, (), ("c",)),
        (np.arange(60) // 2, (), ()),
        (1e30 * RNG.normal(size=60), (), ()),  # every such float is a whole number
        (np.where(np.arange(60) == 3, np.nan, np.arange(60)), (), ()),
    ],
)
def test_columns_that_number_the_rows(values, counting, running):
    made = facts_of(with_column(values))
    assert (made.counting, made.running) == (counting, running)


def test_codes_that_target_encoding_replaces_are_no_numbers():
    values = RNG.normal(100, 20, 60)
    values[:4] = -999
    x, coded = with_column(values), PLAIN.model_copy(update={"target_encoded": ["c"]})
    assert facts_of(x).sentinels == (("c", -999, 4),)
    assert facts_of(with_column(np.arange(60)), settings=coded) == facts_of(x, settings=coded) == NO_FACTS


def test_columns_of_one_value_and_copies_of_columns():
    x = noise()
    made = facts_of(np.column_stack([x, np.full(60, 3.0), 1.8 * x[:, 0] + 32, np.full(60, np.nan)]))
    assert made.constant == ("c",)
    assert made.copies == (("d", "a"),)
    made = facts_of(np.column_stack([x, 1.8 * x[:, 0] + 32, x[:, 1] ** 3]))
    assert made.copies == (("c", "a"),)


@pytest.mark.parametrize(("value", "told"), [(-999, True), (999, True), (-998, False)])
def test_numbers_that_may_stand_for_a_missing_value(value, told):
    values = RNG.normal(100, 20, 60)
    values[:4] = value
    assert facts_of(with_column(values)).sentinels == ((("c", value, 4),) if told else ())


def test_999_among_larger_numbers_is_a_number():
    assert facts_of(with_column(np.linspace(500, 2000, 60).round() // 9 * 9)).sentinels == ()


THOUSANDS = np.r_[RNG.integers(100, 1000, 20), RNG.integers(1001, 40_000, 40)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.where(THOUSANDS < 1000, THOUSANDS, THOUSANDS / 1000), True),
        (np.where(THOUSANDS < 1000, -THOUSANDS, THOUSANDS / -1000), True),
        (THOUSANDS, False),
        (THOUSANDS / 1000, False),  # fractions alone
        (RNG.normal(500, 200, 60).round(1), False),  # one decimal
        (np.where(np.arange(60) < 20, 0, RNG.normal(50, 9, 60).round(3)), False),  # many are 0
        (
            np.where(THOUSANDS < 1000, THOUSANDS * 10, THOUSANDS / 1000),
            False,
        ),  # others of a thousand are as they should be
    ],
)
def test_thousands_that_were_read_as_fractions(values, told):
    found = facts_of(with_column(np.asarray(values, float))).thousands
    assert [name for name, *_ in found] == ["c"] * told


@pytest.mark.parametrize("hidden", [False, True])
def test_thousands_in_what_is_predicted(hidden):
    values = np.where(THOUSANDS < 1000, THOUSANDS, THOUSANDS / 1000)
    raw = Raw(Part(noise(), values), columns=("a", "b"))
    found = row_facts(raw, PLAIN.model_copy(update={"task": "regression", "label": "cost"}), hidden)[
        0
    ].thousands
    assert [name for name, *_ in found] == ["cost"] * (not hidden)


def test_a_column_that_gives_the_label_away_has_its_auc():
    column = 5.0 - Y + np.where(np.arange(60) == 7, 0.5, 0) + RNG.normal(0, 0.05, 60)
    ((name, auc),) = facts_of(with_column(column)).decisive
    assert name == "c"
    assert auc == pytest.approx(1 - roc_auc_score(Y, column))
    assert facts_of(with_column(column), hidden=True).decisive == ()
    assert facts_of(with_column(column + 2 * RNG.normal(size=60))).decisive == ()


OF_MORE = RNG.permutation(240)


@pytest.mark.parametrize("classes", [3, 4, 12])
@pytest.mark.parametrize("kind", ["code", "finer code", "marker", "noisy marker", "rare classes"])
def test_a_column_that_gives_away_one_of_several_classes(kind, classes):
    y = OF_MORE % classes
    if kind == "rare classes":  # 40 rows of one class, and a single row of another
        y = np.where(OF_MORE < 40, 0, y)
        y[7] = classes
    order = RNG.permutation(classes)  # the code says nothing about the order of classes
    spread = 0 if "code" in kind else 0.1
    column = order[np.minimum(y, classes - 1)] + spread * RNG.uniform(-1, 1, 240)
    if kind == "finer code":
        column = 2 * column + OF_MORE // classes % 2
    if kind == "noisy marker":
        column[OF_MORE == 50] = column[OF_MORE == 51]  # one row of 240 is wrong
    made = facts_of(np.column_stack([RNG.normal(size=(240, 2)), column]), y)
    ((name, share),) = made.decisive
    assert name == "c"
    assert share == pytest.approx(1 - (kind == "noisy marker") / 240, abs=1e-9)
    named = np.array([f"class {number}" for number in y])
    assert facts_of(column[:, None], named).decisive == (("a", share),)
    assert facts_of(column[:, None], named, hidden=True).decisive == ()


@pytest.mark.parametrize("classes", [2, 3])
def test_a_middle_interval_and_a_missing_value_give_a_class_away(classes):
    between = RNG.permutation(np.linspace(-1, 1, 240))
    y = (abs(between) < 0.4).astype(int) + 2 * (classes - 2) * (between > 0.7)
    assert facts_of(between[:, None], y).decisive == (("a", pytest.approx(1.0)),)
    kind = RNG.permutation(240) % classes
    values = np.where(kind == 0, np.nan, kind + RNG.uniform(0, 0.5, 240))
    assert facts_of(values[:, None], kind).decisive == (("a", pytest.approx(1.0)),)
    missing = np.where(RNG.random(240) < 0.3, np.nan, RNG.normal(size=240))  # by chance
    assert facts_of(missing[:, None], kind).decisive == ()


def test_honest_columns_give_no_class_away():
    for load in (datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer):
        rows = load()
        assert list(decisive_columns(rows.data, rows.target, rows.feature_names, PLAIN)) == []
    patient = np.arange(300) // 5  # 60 patients of 5 rows each, whose values are those of the patient
    for column in RNG.normal(size=(60, 20)).T:
        assert facts_of(column[patient, None], RNG.integers(0, 3, 60)[patient]).decisive == ()
    y = np.minimum(np.arange(1000) // 10 % 50, 2)  # 960 of 1000 rows have one class
    assert facts_of(RNG.normal(size=(1000, 8)), y).decisive == ()


def test_columns_of_which_a_sum_is_the_label_are_found():
    """The other columns of a one-hot label: none of them alone gives it away."""
    kind = RNG.permutation(60) % 3
    hot = np.column_stack([noise()[:, :2], kind == 0, kind == 1]).astype(float)
    raw = Raw(Part(hot, (kind == 2).astype(int)), columns=("a", "b", "good", "fair"))
    assert row_facts(raw, PLAIN, False)[0].together == ("good", "fair")
    assert row_facts(raw, PLAIN, False)[0].decisive == ()
    assert row_facts(raw, PLAIN, True)[0].together == ()
    named = replace(raw, train=Part(hot, np.array(["x", "y", "z"])[kind]))  # the label itself is a text
    assert row_facts(named, PLAIN, False)[0].together == ("good", "fair")
    hot[7, 2] = 1 - hot[7, 2]
    assert row_facts(raw, PLAIN, False)[0].together == ()  # one row is another way
    assert facts_of(noise()).together == ()


def test_of_a_regression_it_is_the_rank_correlation():
    y = RNG.normal(size=60)
    settings = PLAIN.model_copy(update={"task": "regression"})
    assert facts_of(with_column(-np.exp(y)), y, settings).decisive == (("c", pytest.approx(1.0)),)
    assert facts_of(noise(), y, settings).decisive == ()


def test_labels_in_several_spellings():
    labels = [
        ">50K",
        ">50K.",
        "<=50K",
        "Yes",
        "yes ",
        "no",
        "1",
        "1.0",
        "2",
        "0",
        "-0",
        "heart-attack",
        "Heart attack",
        "-1",
    ]
    assert spelled_alike(labels) == [
        ("-0", "0"),
        ("1", "1.0"),
        (">50K", ">50K."),
        ("Heart attack", "heart-attack"),
        ("Yes", "yes "),
    ]
