"""Labels that are not used: which rows keep theirs, and that nothing after the split holds the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedtl.data import hidden
from fedtl.data.checks import check_rows
from fedtl.data.dataset import pool
from fedtl.data.hidden import labelled_rows
from fedtl.data.labels import label_texts, without_label
from fedtl.data.prepare import prepare_silo, silo_names
from fedtl.data.registry import DATA
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.errors import ConfigError, DataError

CLASSES = ("0", "1", "2")
UNLABELLED = DataSettings(unlabelled=["s"], scale="none")
FEW = DataSettings(label_fraction=0.1, scale="none")


def rows(count=200, start=0, labels=None):
    """Rows whose only value is their number; 80 % of class 0, 15 % of class 1, the rest of class 2."""
    x = np.arange(start, start + count, dtype=np.float32)[:, None]
    return Part(x, np.repeat([0, 1, 2], [160, 30, 10])[:count] if labels is None else labels)


def do(raw, settings, seed=0, name="s", classes=CLASSES):
    return prepare_silo(raw, settings, name, seed, classes, frozenset(classes))


def numbers(x):
    return x[:, 0].int().tolist()


def test_an_unlabelled_silo_keeps_its_rows_as_inputs_and_its_test_labels():
    one = do(Raw(rows(), columns=("x",)), UNLABELLED)
    assert (len(one.data.train), one.data.train.x.shape) == (0, (0, 1))
    assert not one.data.has_labels
    assert one.data.val.y.tolist() == [-1] * 16
    parts = [numbers(one.data.target), numbers(one.data.val.x), numbers(one.evaluation_set.test.x)]
    assert [len(part) for part in parts] == [144, 16, 40]
    assert sorted(sum(parts, [])) == list(range(200))
    own = rows().y[one.evaluation_set.ids.numpy()]
    assert one.evaluation_set.test.y.tolist() == own.tolist()


def same_rows(one, other):
    """Equal in every tensor that training may read, and in the numbers of the test rows."""
    assert torch.equal(one.data.target, other.data.target)
    assert one.evaluation_set.ids.tolist() == other.evaluation_set.ids.tolist()
    assert one.inputs == other.inputs
    for left, right in ((one.data.train, other.data.train), (one.data.val, other.data.val)):
        assert torch.equal(left.x, right.x)
        assert torch.equal(left.y.nan_to_num(-7), right.y.nan_to_num(-7))


@pytest.mark.parametrize("parts", [(None, None), (rows(40, 1000), rows(40, 2000))], ids=["split", "given"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_no_prepared_value_depends_on_the_labels_of_an_unlabelled_silo(parts, task):
    settings = UNLABELLED.model_copy(update={"task": task, "limit": 60})
    y, classes = rows().y.astype(float), CLASSES if task == "classification" else ()
    raw = Raw(rows(labels=y), *parts, columns=("x",))
    permuted = replace(raw, train=rows(labels=np.random.default_rng(1).permutation(y)))
    same_rows(do(raw, settings, classes=classes), do(permuted, settings, classes=classes))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_a_fraction_keeps_each_class_and_its_proportion(fraction):
    y = rows().y
    kept = labelled_rows(y, fraction, True, 2, np.random.default_rng(0))
    counts = np.bincount(y[kept], minlength=3)
    assert counts.min() >= 1
    assert np.abs(counts - fraction * np.array([160, 30, 10])).max() <= 1
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(labelled_rows(y, fraction, False, 2, np.random.default_rng(0))) == max(
        2, round(fraction * 200)
    )


def test_the_labels_that_are_used_depend_on_the_seed_and_the_silo_alone():
    raw = Raw(rows(), None, rows(40, 2000), columns=("x",))
    few = do(raw, FEW)
    assert numbers(few.data.train.x) == numbers(do(raw, FEW).data.train.x)
    assert numbers(few.data.train.x) != numbers(do(raw, FEW, seed=1).data.train.x)
    assert numbers(few.data.train.x) != numbers(do(raw, FEW, name="t").data.train.x)
    by_silo = FEW.model_copy(update={"label_fraction": {"s": 0.1}})
    assert numbers(few.data.train.x) == numbers(do(raw, by_silo).data.train.x)
    assert len(do(raw, by_silo, name="t").data.train) == 180
    assert not do(raw, by_silo, name="t").data.one_domain


def test_hidden_labels_of_a_fraction_are_nowhere_after_the_draw(monkeypatch):
    raw = Raw(rows(), None, rows(40, 2000), columns=("x",))
    few = do(raw, FEW)
    assert (len(few.data.train), few.data.hidden, len(few.data.val)) == (18, 162, 20)
    assert sorted(numbers(few.data.inputs) + numbers(few.data.val.x)) == list(range(200))
    assert few.data.val.y[:4].tolist() == [
        0,
        0,
        1,
        2,
    ]  # 10 % of 20 rows, and one row of each class that they lack
    assert few.data.val.y[4:].eq(-1).all()
    used = set(numbers(few.data.train.x)) | set(numbers(few.data.val.x[few.data.val.y >= 0]))
    flipped = np.array([label if number in used else 2 - label for number, label in enumerate(raw.train.y)])
    assert (flipped != raw.train.y).sum() > 100
    monkeypatch.setattr(hidden, "labelled_rows", by_true_labels(raw, few))
    same_rows(few, do(replace(raw, train=rows(labels=flipped)), FEW))


def by_true_labels(raw, few):
    """The draw as it was before labels were flipped: which rows have labels is no secret of the hidden ones."""
    parts = {len(x): sorted(numbers(x)) for x in (few.data.inputs, few.data.val.x)}
    return lambda y, *words: labelled_rows(raw.train.y[parts[len(y)]], *words)


def test_rows_are_pooled_with_and_without_labels():
    one, other = do(Raw(rows(), columns=("x",)), UNLABELLED).data, do(Raw(rows()), FEW, name="t").data
    pooled = pool([one, other])
    assert len(pooled.train) == len(other.train)
    assert pooled.hidden == one.hidden + other.hidden
    assert len(pooled.inputs) == len(one.inputs) + len(other.inputs)


def test_test_rows_without_a_label_are_not_judged_and_unknown_labels_are_refused():
    labels = np.array(["0", "1"] * 20)
    labels[:10] = ""
    raw = Raw(rows(labels=np.full(200, "")), None, Part(rows(40).x, labels), columns=("x",))
    assert do(raw, UNLABELLED).evaluation_set.ids.tolist() == list(range(10, 40))
    with pytest.raises(DataError, match="'7' is out"):
        do(replace(raw, test=Part(rows(40).x, np.full(40, "7"))), UNLABELLED)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"unlabelled": ["plane"]}, "data.unlabelled"), ({"label_fraction": {"plane": 0.5}}, "label_fraction")],
)
def test_a_silo_that_is_not_there(change, word):
    with pytest.raises(ConfigError, match=word):
        silo_names(DataSettings(**change))


MISSING = DataSettings(missing_labels="inputs", scale="none")


def with_missing(every=3):
    """Rows of which every ``every``-th has a label, and those rows alone."""
    y = rows().y.astype(str)
    y[np.arange(200) % every > 0] = ""
    known = np.flatnonzero(y != "")
    return Raw(rows(labels=y), columns=("x",)), Raw(rows().take(known), columns=("x",)), known


def test_rows_without_a_label_are_further_inputs_and_the_others_are_divided_as_without_them():
    raw, labelled, known = with_missing()
    one, other = do(raw, MISSING), do(labelled, MISSING)
    for left, right in ((one.data.train, other.data.train), (one.data.val, other.data.val)):
        assert torch.equal(left.x, right.x)
        assert torch.equal(left.y, right.y)
    assert torch.equal(one.evaluation_set.test.x, other.evaluation_set.test.x)
    assert one.evaluation_set.ids.tolist() == known[other.evaluation_set.ids.numpy()].tolist()
    assert numbers(one.data.target) == sorted(set(range(200)) - set(known.tolist()))
    assert (one.data.one_domain, other.data.target) == (True, None)


def test_units_that_are_judged_give_no_inputs_without_labels():
    raw, _, _ = with_missing(2)
    units = np.arange(200) // 10
    one = do(replace(raw, train=replace(raw.train, units=units)), MISSING)
    judged = {number // 10 for x in (one.data.val.x, one.evaluation_set.test.x) for number in numbers(x)}
    assert len(judged) > 4
    assert {number // 10 for number in numbers(one.data.target)} == set(range(20)) - judged


def test_a_share_of_the_labels_that_there_are_is_kept():
    raw, _, known = with_missing()
    few = do(raw, MISSING.model_copy(update={"label_fraction": 0.1}))
    assert 5 <= len(few.data.train) <= 8  # 10 % of some 48, and one row of each class
    assert set(numbers(few.data.train.x)) <= set(known.tolist())
    assert len(few.data.train) + few.data.hidden + len(few.data.val) + len(few.evaluation_set.test) == 200


@pytest.mark.parametrize("settings", [{}, {"label_fraction": 0.5}, {"task": "regression"}])
def test_rows_without_a_label_are_refused_by_default(settings):
    raw, _, _ = with_missing()
    y = np.array([float(label or "nan") for label in raw.train.y]) if "task" in settings else raw.train.y
    with pytest.raises(DataError, match="silo s"):
        check_rows(Raw(rows(labels=y)), DataSettings(**settings), "s", True)
    check_rows(Raw(rows(labels=y)), DataSettings(missing_labels="inputs", **settings), "s", True)
    y[:196] = np.nan if "task" in settings else ""
    with pytest.raises(DataError, match="1 of 200"):
        check_rows(Raw(rows(labels=y)), DataSettings(missing_labels="inputs", **settings), "s", True)


@pytest.mark.parametrize(
    ("cells", "more", "expected"),
    [
        (["1", "", "0", "1", "None"], {}, ["1", "", "0", "1", ""]),
        (["ill", "", "well", "ill", "NA"], {}, ["ill", "", "well", "ill", ""]),
        (["ill", "", "well", "ill", " "], {}, ["ill", "", "well", "ill", ""]),
        (["1.5", "", "0.5", "3", "NaN"], {"positive_above": 1}, ["1", "", "0", "1", ""]),
    ],
)
def test_empty_cells_of_a_table_are_missing_labels(cells, more, expected, tmp_path):
    text = "x,label\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(cells))
    (tmp_path / "s.csv").write_text(text)
    settings = DataSettings(source="table", path=str(tmp_path), **more)
    with pytest.raises(DataError, match="label"):
        DATA["table"].read(settings, "s")
    read = DATA["table"].read(settings.model_copy(update={"missing_labels": "inputs"}), "s").train.y
    found = np.where(without_label(read), "", np.array(label_texts(read)))
    assert found.tolist() == expected
