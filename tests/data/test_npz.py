"""One archive per silo: what is read, and what is refused with the file's name."""

import numpy as np
import pytest

from fedtl.data import bounded
from fedtl.data.npz import read, silos
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

X, Y = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 2


def settings(path, **more):
    return DataSettings(source="npz", path=str(path), **more)


def write(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return settings(path)


def refused(path, message, **more):
    with pytest.raises(DataError, match=message) as error:
        read(settings(path, **more), "a")
    assert "\n" not in str(error.value)


def test_silos_are_the_files(tmp_path):
    for name in ("b", "a"):
        np.savez(tmp_path / f"{name}.npz", train_x=X, train_y=Y)
    (tmp_path / "README.md").touch()
    assert silos(settings(tmp_path)) == ["a", "b"]


def test_a_folder_without_archives_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no <silo>\.npz"):
        silos(settings(tmp_path))


def test_parts_are_read_without_changes(tmp_path):
    raw = read(
        write(tmp_path, train_x=X, train_y=Y, test_x=X[:2], test_y=Y[:2], val_x=X[:3], val_y=Y[:3]), "a"
    )
    assert (len(raw.train.y), len(raw.val.y), len(raw.test.y)) == (6, 3, 2)
    assert raw.train.x.dtype == np.uint8
    assert raw.columns == ()
    assert raw.target is None


def test_columns_of_a_table_are_numbered(tmp_path):
    raw = read(write(tmp_path, train_x=np.zeros((6, 3), np.float32), train_y=Y), "a")
    assert raw.columns == ("0", "1", "2")
    assert raw.test is raw.val is None


def test_the_second_domain_is_read_only_if_the_settings_name_it(tmp_path):
    write(tmp_path, train_x=X, train_y=Y, target_x=X[:4], target_test_x=X[:2], target_test_y=Y[:2])
    raw = read(settings(tmp_path, target_domain="new"), "a")
    assert (len(raw.target), len(raw.target_test.y)) == (4, 2)
    assert read(settings(tmp_path), "a").target is None


def test_a_missing_array_is_named(tmp_path):
    write(tmp_path, train_x=X, y=Y)
    refused(tmp_path, "train_y; it has")
    write(tmp_path, train_x=X, train_y=Y)
    refused(tmp_path, "no array target_x", target_domain="new")
    write(tmp_path, train_x=X, train_y=Y, test_x=X)
    refused(tmp_path, "only one of test_x")


@pytest.mark.parametrize(("x", "y"), [(X, Y[:5]), (X, np.eye(6)), (X[:, 0, 0], Y), (X[None, None], Y[:1])])
def test_shapes_that_do_not_fit_are_refused(tmp_path, x, y):
    write(tmp_path, train_x=x, train_y=y)
    refused(tmp_path, r"train_x is \(")


def test_channels_first_is_refused(tmp_path):
    write(tmp_path, train_x=np.zeros((6, 3, 8, 8), np.uint8), train_y=Y)
    refused(tmp_path, "N, C, H, W")
    write(
        tmp_path, train_x=np.zeros((6, 3, 8, 3), np.uint8), train_y=Y
    )  # three rows high, but it has channels last
    assert read(settings(tmp_path), "a").train.x.shape == (6, 3, 8, 3)


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    write(tmp_path, train_x=np.array([Trap()] * 6, object), train_y=Y)
    refused(tmp_path, r"a\.npz cannot be read")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path, r"a\.npz cannot be read")


def test_a_single_array_under_the_name_of_an_archive_is_refused(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, X)
    refused(tmp_path, r"a\.npz cannot be read")


def test_one_column_of_labels_is_a_list_of_labels_and_more_are_refused(tmp_path):
    x = np.zeros((6, 3))
    assert read(write(tmp_path, train_x=x, train_y=Y[:, None]), "a").train.y.tolist() == Y.tolist()
    write(tmp_path, train_x=x, train_y=np.eye(3)[Y])
    refused(tmp_path, "it is one-hot")
    write(tmp_path, train_x=x, train_y=np.ones((6, 3)))
    refused(tmp_path, "save one column")


def test_an_array_of_objects_is_named_and_never_loaded(tmp_path):
    write(tmp_path, train_x=np.zeros((6, 3)), train_y=np.array(["a", "b"] * 3, object))
    refused(tmp_path, "array train_y holds")


def test_columns_are_put_in_the_order_of_the_first_silo(tmp_path):
    x = np.arange(18.0).reshape(6, 3)
    np.savez(tmp_path / "a.npz", train_x=x, train_y=Y, columns=["p", "q", "r"])
    np.savez(tmp_path / "b.npz", train_x=x[:, [2, 0, 1]], train_y=Y, columns=["r", "p", "q"])
    raw = read(settings(tmp_path), "b")
    assert raw.columns == ("p", "q", "r")
    assert np.array_equal(raw.train.x, x)


def test_other_formats_are_named(tmp_path):
    (tmp_path / "a.mat").touch()
    with pytest.raises(DataError, match=r"scipy\.io\.loadmat"):
        silos(settings(tmp_path))


def test_a_small_file_that_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", train_x=np.zeros((40, 30_000)), train_y=np.arange(40) % 2)
    read(settings(tmp_path), "a")
    monkeypatch.setattr(bounded, "MAX_BYTES", 1 << 20)
    with pytest.raises(DataError, match="unpacks to 9 MB"):
        read(settings(tmp_path), "a")
    np.savez(tmp_path / "a.npz", train_x=np.zeros((40, 30_000)), train_y=np.arange(40) % 2)
    read(settings(tmp_path), "a")  # as large as it says


def test_bytes_are_the_texts_that_they_spell(tmp_path):
    y = np.array([b"no", "j\xe9".encode(), b"\xff"] * 2)
    raw = read(write(tmp_path, train_x=np.zeros((6, 2)), train_y=y, columns=np.array([b"a", b"b"])), "a")
    assert raw.train.y.tolist() == ["no", "j\xe9", "\\xff"] * 2
    assert raw.columns == ("a", "b")


def test_a_word_that_was_a_missing_value_is_no_class(tmp_path):
    write(tmp_path, train_x=X, train_y=np.array(["ill", np.nan, "well"] * 2))
    refused(tmp_path, "2 of 6 rows have the label 'nan'.*data.classes")
    assert "nan" in read(settings(tmp_path, classes=["ill", "well", "nan"]), "a").train.y
    known = read(settings(tmp_path, missing_labels="inputs"), "a").train.y
    assert known.tolist() == ["ill", "", "well"] * 2


def test_arrays_of_other_names_are_said_to_be_unread(tmp_path):
    raw = read(write(tmp_path, train_x=X, train_y=Y, validation_x=X, validation_y=Y, train_sex=Y), "a")
    assert [note.split(": ")[1] for note in raw.unread] == ["train_sex, validation_x, validation_y"]
    assert [note.split(": ")[1] for note in read(settings(tmp_path, unit_column="sex"), "a").unread] == [
        "validation_x, validation_y"
    ]
