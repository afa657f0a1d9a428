"""Splitting, limiting and numbering one silo's rows; errors in them; and real data sets from file to tensors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtl.data.labels import merge_labels
from fedtl.data.prepare import prepare_silo, read_silo, silo_classes, silo_names
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.errors import ConfigError, DataError

PLAIN = DataSettings()
BINARY = frozenset("01")


def rows(count, start=0):
    """Rows whose only value is their number."""
    x = np.arange(start, start + count, dtype=np.float32)[:, None]
    return Part(x, np.arange(count) % 2)


def do(raw, settings=PLAIN, seed=0, labels=("0", "1"), trained=BINARY):
    return prepare_silo(raw, settings.model_copy(update={"scale": "none"}), "s", seed, labels, trained)


def found(part):
    return part.x[:, 0].int().tolist()


def test_parts_are_a_partition_of_the_rows():
    one = do(Raw(rows(100), columns=("x",)))
    parts = [found(one.data.train), found(one.data.val), found(one.evaluation_set.test)]
    assert [len(part) for part in parts] == [72, 8, 20]
    assert sorted([*parts[0], *parts[1], *parts[2]]) == list(range(100))
    assert one.evaluation_set.ids.tolist() == found(
        one.evaluation_set.test
    )  # a row keeps its number in the source


def test_the_split_depends_on_the_seed_and_the_silo():
    raw = Raw(rows(100), columns=("x",))
    assert found(do(raw).evaluation_set.test) == found(do(raw).evaluation_set.test)
    assert found(do(raw).evaluation_set.test) != found(do(raw, seed=1).evaluation_set.test)
    other = prepare_silo(raw, PLAIN, "another", 0, ("0", "1"), BINARY)
    assert other.evaluation_set.ids.tolist() != do(raw).evaluation_set.ids.tolist()


def test_ids_do_not_depend_on_other_settings():
    raw = Raw(rows(100), columns=("x",))
    few = do(raw, DataSettings(limit=10, val=0.3))
    assert few.evaluation_set.ids.tolist() == do(raw).evaluation_set.ids.tolist()


def test_parts_of_the_source_are_kept():
    one = do(Raw(rows(50), rows(10, 100), rows(20, 200), columns=("x",)))
    assert found(one.data.train) == list(range(50))
    assert found(one.data.val) == list(range(100, 110))
    assert found(one.evaluation_set.test) == list(range(200, 220))
    assert one.evaluation_set.ids.tolist() == list(range(20))


@pytest.mark.parametrize(("limit", "train", "val"), [(10, 10, 1), (27, 27, 3), (1000, 72, 8), (0, 72, 8)])
def test_a_limit_counts_training_rows(limit, train, val):
    one = do(Raw(rows(100), columns=("x",)), DataSettings(limit=limit))
    assert (len(one.data.train), len(one.data.val), len(one.evaluation_set.test)) == (train, val, 20)
    assert not set(found(one.data.train)) & {*found(one.data.val), *found(one.evaluation_set.test)}


def test_no_validation_rows_where_none_are_asked_for():
    images = Part(np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2)
    one = do(Raw(images), DataSettings(val=0, size=4))
    assert one.data.val.x.shape == (0, 1, 4, 4)
    assert len(one.data.train) == 32


def test_rows_of_the_second_domain_are_for_training_or_for_testing():
    target = rows(50, 1000)
    one = do(Raw(rows(50), target=target.x, target_test=target, columns=("x",)))
    trained, examined = one.data.target[:, 0].int().tolist(), found(one.evaluation_set.target)
    assert sorted(trained + examined) == list(range(1000, 1050))
    assert len(examined) == 10


def test_a_second_domain_with_test_rows_is_not_split_again():
    one = do(Raw(rows(50), target=rows(30, 1000).x, target_test=rows(30, 2000), columns=("x",)))
    assert (len(one.data.target), len(one.evaluation_set.target)) == (30, 30)
    assert do(Raw(rows(50), target=rows(30, 1000).x, columns=("x",))).evaluation_set.target is None


def test_labels_are_numbered_by_value():
    assert merge_labels([["10", "9"], ["2", "9"]]) == ("2", "9", "10")
    assert merge_labels([["10", "9", "cat"]]) == ("10", "9", "cat")
    assert merge_labels([["01", "1"]]) == merge_labels([["1", "01"]]) == ("01", "1")
    assert merge_labels([["²", "3"]]) == ("3", "²")


@given(st.lists(st.lists(st.one_of(st.text(max_size=3), st.integers().map(str)))))
def test_merged_labels_have_every_label_once_whatever_the_order(sets):
    made = merge_labels(sets)
    assert sorted(made) == sorted({label for labels in sets for label in labels})
    assert made == merge_labels([labels[::-1] for labels in sets[::-1]])


def test_own_classes_and_the_union_of_all():
    raw = Raw(Part(rows(40).x, np.array([9.0, 10.0] * 20)), columns=("x",))
    assert silo_classes(raw, DataSettings(source="npz")) == ("9", "10")  # 9.0 and 9 are one label
    assert silo_classes(raw, PLAIN) == tuple("0123456789")  # the digits declare theirs
    assert silo_classes(raw, DataSettings(source="npz", classes=["10", "2", "9"])) == ("2", "9", "10")
    assert silo_classes(raw, DataSettings(task="regression")) == ()
    own = do(raw, labels=("9", "10"), trained=frozenset({"9", "10"}))
    union = do(raw, labels=("2", "9", "10"), trained=frozenset({"2", "9", "10"}))
    assert set(own.data.train.y.tolist()) == {0, 1}
    assert set(union.data.train.y.tolist()) == {1, 2}
    assert own.data.train.y.dtype == torch.int64
    assert own.data.width == 2


def test_labels_of_a_regression_stay_values():
    y = np.linspace(1, 5, 40)
    settings = DataSettings(task="regression")
    one = prepare_silo(Raw(Part(rows(40).x, y), columns=("x",)), settings, "s", 0, (), frozenset())
    assert one.data.train.y.dtype == torch.float64
    assert torch.equal(one.evaluation_set.test.y, torch.tensor(y[one.evaluation_set.ids.numpy()]))
    trained = one.data.train.y.double().numpy()
    assert one.inputs.y_mean == pytest.approx(trained.mean(), abs=1e-5)


# What is refused


def stored(path, name="a", **arrays):
    np.savez(path / f"{name}.npz", **arrays)
    return DataSettings(source="npz", path=str(path))


def change(**more):
    return {"train_x": rows(20).x, "train_y": rows(20).y} | more


def with_value(value, x=None):
    x = rows(20).x.copy() if x is None else x
    x.reshape(-1)[3] = value
    return x


FLOATS = np.zeros((20, 4, 4), np.float32)
WRONG = {
    "empty": (change(train_x=rows(0).x, train_y=rows(0).y), "is empty"),
    "empty test": (change(test_x=rows(0).x, test_y=rows(0).y), "no test rows"),
    "few": (change(train_x=rows(3).x, train_y=rows(3).y), "3 training rows"),
    "negative": (change(train_y=rows(20).y - 1), "label -1"),
    "half": (change(train_y=rows(20).y + 0.5), "label 0.5"),
    "nan label": (change(train_y=with_value(np.nan, rows(20).y.astype(float))), "rows have no label"),
    "inf label": (change(train_y=with_value(np.inf, rows(20).y.astype(float))), "label inf"),
    "nan": (change(train_x=with_value(np.nan)), "column 0 is nan"),
    "inf": (change(test_x=with_value(np.inf), test_y=rows(20).y), "test row 3"),
    "large": (change(train_x=with_value(1e300, rows(20).x.astype(float))), "is 1e+300"),
    "pixels": (
        change(train_x=with_value(np.nan, FLOATS.copy())),
        "train images hold 1",
    ),
    "half pixels": (
        change(train_x=with_value(np.inf, FLOATS.astype(np.float16))),
        "train images hold 1",
    ),
    "text": (change(train_x=np.full((20, 1), "x")), "type <U1"),
    "columns": (
        change(test_x=np.zeros((2, 5)), test_y=rows(2).y),
        "shape (5,)",
    ),
    "depth": (
        change(train_x=FLOATS, test_x=FLOATS.astype(np.uint8), test_y=rows(20).y),
        "test images are uint8",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_rows_that_cannot_be_used(case, tmp_path):
    arrays, message = WRONG[case]
    with pytest.raises(DataError) as error:
        read_silo(stored(tmp_path, **arrays), "a")
    assert message in str(error.value)
    assert str(error.value).startswith("silo a")
    assert "\n" not in str(error.value)


def test_the_second_domain_is_checked_too(tmp_path):
    settings = stored(tmp_path, **change(target_x=with_value(np.nan)))
    with pytest.raises(DataError, match="target row 3"):
        read_silo(settings.model_copy(update={"target_domain": "new"}), "a")


def test_float16_images_are_fine(tmp_path):
    assert (
        read_silo(stored(tmp_path, **change(train_x=FLOATS.astype(np.float16))), "a").train.x.dtype
        == np.float16
    )


@pytest.mark.parametrize("y", [np.full(20, np.nan), np.array(["a"] * 20)])
def test_regression_needs_finite_numbers(y, tmp_path):
    settings = stored(tmp_path, **change(train_y=y)).model_copy(update={"task": "regression"})
    with pytest.raises(DataError, match=r"regression needs finite"):
        read_silo(settings, "a")


def test_one_class_is_refused():
    raw = Raw(Part(rows(40).x, np.zeros(40, int)), columns=("x",))
    with pytest.raises(DataError, match="same label '0'"):
        do(raw, trained=frozenset("0"))
    assert do(raw).data.train.y.unique().tolist() == [0]  # others that train with it have more


def test_a_label_that_nobody_trains_on_is_refused():
    raw = Raw(rows(40), test=Part(rows(2).x, np.array([0, 7])), columns=("x",))
    with pytest.raises(DataError, match="label '7'"):
        do(raw, labels=("0", "1", "7"))
    do(raw, labels=("0", "1", "7"), trained=BINARY | {"7"})  # another silo does, and shares the head


def test_parts_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(DataError, match="leave 0 training"):
        do(Raw(rows(4), columns=("x",)), DataSettings(test=0.9, val=0))


@pytest.mark.parametrize("name", ["()", ".hidden", "東京", "x" * 65, "-x"])
def test_names_that_are_no_file_names_are_refused(name, tmp_path):
    with pytest.raises(DataError, match="64 characters"):
        silo_names(stored(tmp_path, f"{name}", **change()))


@pytest.mark.parametrize("key", ["silos", "late"])
def test_an_unknown_silo_is_named_with_those_there_are(key):
    with pytest.raises(ConfigError, match=rf"data\.{key}: .* 'nowhere'"):
        silo_names(DataSettings(**{key: ["nowhere"]}))


def test_names_in_the_order_of_the_source_late_ones_included():
    assert silo_names(DataSettings(silos=["faint", "plain"])) == ["plain", "faint"]
    assert silo_names(DataSettings(silos=["plain"], late=["textured"])) == ["plain", "textured"]


# Real data


def ready(settings, name):
    raw = read_silo(settings, name)
    labels = silo_classes(raw, settings)
    return raw, prepare_silo(raw, settings, name, 0, labels, frozenset(labels))


@pytest.mark.parametrize(("name", "train", "test"), [("photo", 685, 200), ("optdigits", 3823, 1797)])
def test_digits6(shared_data, name, train, test):
    settings = DataSettings(source="npz", path=str(shared_data("digits6")), size=16, channels=3)
    assert silo_names(settings) == ["font", "mnist", "mnist_m", "optdigits", "photo", "usps"]
    raw, one = ready(settings, name)
    assert (len(raw.train.y), len(raw.test.y)) == (train, test)
    assert (len(one.data.train) + len(one.data.val), len(one.evaluation_set.test)) == (train, test)
    assert one.data.train.x.shape[1:] == one.evaluation_set.test.x.shape[1:] == (3, 16, 16)
    assert one.data.train.x.dtype == torch.uint8
    assert one.data.classes == tuple("0123456789")


def test_heart_disease(shared_data):
    path = str(shared_data("heart-disease"))
    settings = DataSettings(source="table", path=path, label="num", positive_above=0)
    assert silo_names(settings) == ["cleveland", "hungarian", "switzerland", "va"]
    for name, count in (("cleveland", 303), ("hungarian", 294), ("switzerland", 123), ("va", 200)):
        raw, one = ready(settings, name)
        assert len(raw.train.y) == count
        assert len(one.data.train) + len(one.data.val) + len(one.evaluation_set.test) == count
        assert torch.isfinite(one.data.train.x).all()
        assert torch.isfinite(one.evaluation_set.test.x).all()
        assert one.data.classes == ("0", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "task", "silos", "total"),
    [("landmine", "classification", 29, 14820), ("school", "regression", 139, 15362)],
)
def test_many_small_silos(shared_data, data, task, silos, total):
    settings = DataSettings(source="npz", path=str(shared_data(data)), task=task)
    assert len(silo_names(settings)) == silos
    counts = []
    for name in silo_names(settings):
        raw, one = ready(settings, name)
        counts.append(len(raw.train.y) + len(raw.test.y))
        assert torch.isfinite(one.data.train.x).all()
        assert one.data.train.y.dtype == (torch.int64 if task == "classification" else torch.float64)
        assert replace(one.evaluation_set, target=None).test.x.shape[1] == one.data.train.x.shape[1]
    assert sum(counts) == total


def test_spoken_digits(shared_data):
    settings = DataSettings(source="npz", path=str(shared_data("spoken-digits")))
    raw, one = ready(settings, silo_names(settings)[0])
    assert (len(raw.train.y), len(raw.test.y)) == (450, 50)
    assert one.data.train.x.shape[1:] == (1, 32, 32)
    assert one.data.train.x.mean().abs() < 1e-3


@given(st.integers(0, 30))
def test_the_split_depends_on_the_task_and_not_on_the_type_of_the_labels(seed):
    """Nine of 200 rows are positive, and two of these are in the test part even if labels are stored as floats."""
    plain = rows(200)
    y = (np.arange(200) % 22 == 3).astype(np.int64)
    assert y.sum() == 9
    for stored in (np.int64, np.uint8, np.float32, np.float64, bool):
        labels = ("0", "1") if stored is not bool else ("False", "True")
        raw = Raw(replace(plain, y=y.astype(stored)), columns=("x",))
        one = do(raw, DataSettings(limit=100), seed, labels, frozenset(labels))
        assert int(one.evaluation_set.test.y.sum()) == 2
        if stored is np.int64:
            first = one
        assert torch.equal(one.evaluation_set.test.x, first.evaluation_set.test.x)
        assert torch.equal(one.data.train.x, first.data.train.x)
        assert torch.equal(one.data.val.x, first.data.val.x)


def test_whole_numbers_in_a_regression_are_not_classes():
    y = np.arange(100) // 10  # as classes, every value would be in every part
    settings = DataSettings(task="regression")
    whole, floats = (
        do(Raw(replace(rows(100), y=values), columns=("x",)), settings, labels=()) for values in (y, y / 1.0)
    )
    assert found(whole.evaluation_set.test) == found(floats.evaluation_set.test)
    assert np.bincount(whole.evaluation_set.test.y.int(), minlength=10).std() > 0


def test_rows_of_a_second_domain_are_split_by_the_task_too():
    y = (np.arange(40) % 8 == 0).astype(np.float64)
    second = rows(40, 1000).x
    raw = Raw(replace(rows(100), y=np.arange(100) % 2), columns=("x",))
    raw = replace(raw, target=second, target_test=Part(second, y))
    one = do(raw)
    assert int(one.evaluation_set.target.y.sum()) == 1  # of 5 events among 40 rows, in 8 test rows


def test_labels_of_minus_one_and_one_are_two_classes(tmp_path):
    y = np.array([-1, 1] * 10)
    np.savez(tmp_path / "a.npz", train_x=np.zeros((20, 2)), train_y=y)
    settings = DataSettings(source="npz", path=str(tmp_path))
    one = ready(settings, "a")[1]
    assert one.data.classes == ("-1", "1")
    assert one.data.train.y.bincount().tolist() == [7, 7]
    np.savez(tmp_path / "a.npz", train_x=np.zeros((20, 2)), train_y=y + (y > 0))
    with pytest.raises(DataError, match="10 rows"):
        read_silo(settings, "a")
    declared = settings.model_copy(update={"classes": ["-1", "2"]})
    assert ready(declared, "a")[1].data.classes == ("-1", "2")


def test_names_with_blanks_and_accents_are_changed_and_clashes_refused(tmp_path):
    table = "site,v,label\n" + "General Motors,1,0\nZürich,2,1\n" * 4
    path = tmp_path / "all.csv"
    path.write_text(table, encoding="utf-8")
    settings = DataSettings(source="table", path=str(path), silo_column="site")
    assert silo_names(settings) == ["General_Motors", "Zurich"]
    assert read_silo(settings, "Zurich").train.x.tolist() == [[2]] * 4
    path.write_text(table.replace("Zürich", "General-Motors").replace("-", "/"), encoding="utf-8")
    with pytest.raises(DataError, match="General_Motors"):
        silo_names(settings)


def test_silos_can_be_left_out(tmp_path):
    for name in "abc":
        np.savez(tmp_path / f"{name}.npz", train_x=np.zeros((20, 2)), train_y=np.arange(20) % 2)
    settings = DataSettings(source="npz", path=str(tmp_path), silos_except=["b"])
    assert silo_names(settings) == ["a", "c"]
    with pytest.raises(ConfigError, match="data.silos_except"):
        silo_names(settings.model_copy(update={"silos_except": ["x"]}))
