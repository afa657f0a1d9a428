"""A CSV table that lists image files: labels, patients, silos and parts, and rows that name no file of the folder."""

import numpy as np
import pytest
from PIL import Image

from fedtl.data.images import read, silos
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError

GREYS = (10, 20, 30, 40, 50, 60)


def settings(path, **more):
    return DataSettings(source="images", path=str(path), manifest="labels.csv", **more)


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "scans"
    (folder / "deep").mkdir(parents=True)
    for number, grey in enumerate(GREYS):
        Image.new("L", (4, 3), grey).save(folder / ("deep" if number % 2 else ".") / f"{number}.png")
    return folder


def write(folder, *rows, header="path,label"):
    (folder / "labels.csv").write_text("\n".join([header, *rows, ""]))


def named(*numbers):
    return [f"deep/{number}.png" if number % 2 else f"{number}.png" for number in numbers]


def greys(part):
    return part.x[:, 0, 0].tolist()


def test_one_table_is_one_silo_in_the_order_of_its_rows(home):
    write(home, *(f"{path},{kind}" for path, kind in zip(named(3, 0, 5, 2), "baab", strict=True)))
    assert silos(settings(home)) == ["scans"]
    raw = read(settings(home), "any name")
    assert greys(raw.train) == [40, 10, 60, 30]
    assert raw.train.y.tolist() == ["b", "a", "a", "b"]
    (line,) = raw.unread
    assert line.startswith("2 images named by no row")
    assert "4.png" in line


def test_silo_patient_part_and_other_names_of_columns(home):
    parts = ["train", "test", "train", "train", "test", "val"]
    rows = [
        f"{n % 2},{path},p{n // 2},{'ab'[n > 2]},{part}"
        for n, (path, part) in enumerate(zip(named(*range(6)), parts, strict=True))
    ]
    write(home, *rows, header="y,file,patient,site,part")
    own = settings(home, file_column="file", label="y", silo_column="site", split_column="part")
    assert silos(own) == ["a", "b"]
    one, other = read(own, "a"), read(own, "b")
    assert (greys(one.train), greys(one.test), one.val) == ([10, 30], [20], None)
    assert (greys(other.train), greys(other.test), greys(other.val)) == ([40], [50], [60])
    assert one.unread == ()  # the other silo's rows name the other files
    patients = settings(home, file_column="file", label="y", silo_column="site", unit_column="patient")
    assert read(patients, "b").train.units.tolist() == ["p1", "p2", "p2"]
    with pytest.raises(DataError, match="p0"):  # a patient in two parts
        read(own.model_copy(update={"unit_column": "patient"}), "a")


def test_a_table_in_each_silos_folder(home):
    write(home / "deep", "1.png,0", "3.png,1")
    assert silos(settings(home)) == ["deep"]
    assert greys(read(settings(home), "deep").train) == [20, 40]
    with pytest.raises(DataError, match="does not exist"):
        read(settings(home), "other")


def test_values_to_regress(home):
    write(home, *(f"{path},{value}" for path, value in zip(named(0, 1), (1.5, -2), strict=True)))
    assert read(settings(home, task="regression"), "s").train.y.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("../secret.png", "leaves"),
        ("deep/../0.png", "leaves"),
        ("", "leaves"),
        ("ABSOLUTE", "leaves"),
        ("link.png", "link out of"),
        ("linked/secret.png", "link out of"),
        ("round.png", "not a file"),
        ("none.png", "not a file"),
        ("deep\\\\1.png", "not a file"),
        ("a" * 300 + ".png", "not a file"),
        ("deep", "not an image"),
        ("labels.csv", "not an image"),
    ],
)
def test_paths_that_are_no_file_of_the_folder(home, cell, reason):
    secret = home.parent / "secret.png"
    Image.new("L", (4, 3)).save(secret)
    (home / "link.png").symlink_to(secret)
    (home / "linked").symlink_to(home.parent)
    (home / "round.png").symlink_to(home / "round.png")
    write(home, "0.png,0", f"{secret if cell == 'ABSOLUTE' else cell},1")
    with pytest.raises(DataError, match=reason):
        read(settings(home), "s")


@pytest.mark.parametrize("second", ["0.png", "./0.png", "same.png"])
def test_one_file_in_two_rows(home, second):
    (home / "same.png").symlink_to(home / "0.png")
    write(home, "0.png,0", "deep/1.png,1", f"{second},1")
    with pytest.raises(DataError, match="rows 1 and 3"):
        read(settings(home), "s")


def test_the_table_is_read_as_every_csv_file_is(home):
    write(home, "0.png;0", "deep/1.png;1", header="path;label")
    with pytest.raises(DataError, match="data.delimiter"):
        read(settings(home), "s")
    assert greys(read(settings(home, delimiter=";"), "s").train) == [10, 20]
    write(home, "0.png,0", header="file,label")
    with pytest.raises(DataError, match="data.file_column"):
        read(settings(home), "s")
    (home / "labels.csv").unlink()
    with pytest.raises(DataError, match="data.manifest"):
        silos(settings(home))


def test_a_row_without_a_label_is_kept_without_one_where_rows_are_prepared_one_by_one(home):
    write(home, "0.png,0", "deep/1.png,")
    with pytest.raises(DataError, match="label"):
        read(settings(home), "s")
    assert read(settings(home, by_record=True), "s").train.y.tolist() == ["0", ""]
    assert np.array_equal(read(settings(home, by_record=True), "s").train.x[:, 0, 0], [10, 20])
