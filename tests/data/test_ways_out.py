"""Inputs that a reader could take for something else: each is read as what it is, or refused in one line whose advice, if followed, is right."""

import numpy as np
import pytest
from PIL import Image

from fedtl.data.csv_files import Dialect, check_csv
from fedtl.data.frame import known_inputs
from fedtl.data.image_files import load_images
from fedtl.data.prepare import read_silo
from fedtl.data.settings import DataSettings
from fedtl.errors import DataError
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.row_notes import _of_files

LABELS = np.arange(8) % 2
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def table(folder, content, **settings):
    (folder / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_silo(DataSettings(source="table", path=str(folder), **settings), "a")


def of_cells(cells):
    return "x,z,label\n" + "".join(f'"{cell}",{n},{n % 2}\n' for n, cell in enumerate(cells))


def arrays(folder, x, y=LABELS, **settings):
    np.savez(folder / "a.npz", train_x=x, train_y=y)
    return read_silo(DataSettings(source="npz", path=str(folder), **settings), "a")


def refusal(read, words):
    with pytest.raises(DataError, match=words) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        "{}%",
        "{} mg",
        "${}",
        "{} €",
        "<{}",
        "\u2212{}",
        "≈ {}",
        "12\u2019{:03.0f}.5",
        "1 {:03.0f}",
        "1,234,{:03.0f}",
    ],
)
@pytest.mark.parametrize("few", [False, True])
def test_a_number_with_other_signs_is_neither_a_category_nor_missing(tmp_path, write, few):
    """An empty cell in the place of "<0.5" or of a typographic minus would move the column, and hashing would lose its order."""
    cells = [write.format(n + 2.0) if n == 3 or not few else f"{n}" for n in range(40)]
    text = refusal(lambda: table(tmp_path, of_cells(cells)), "plain numbers")
    assert "empty" not in text
    assert "hashed" not in text


@pytest.mark.parametrize("cell", ["A12", "12:30", "0x1f", "high", "1/2", "1.2.3"])
def test_other_texts_are_no_numbers(tmp_path, cell):
    assert "plain numbers" not in refusal(lambda: table(tmp_path, of_cells([cell] * 8)), "holds text")


@pytest.mark.parametrize("cell", ["two", "<0.5", "1,5"])
def test_text_in_a_number_of_a_trained_model_can_be_no_category(cell):
    """No setting of the data can change the inputs that the model has."""
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame({"z": [1.0, cell], "x": [2.0, 3.0]})
    told = refusal(
        lambda: known_inputs(rows, DataSettings(source="table"), ["x", "z"], "new.csv"),
        "the model's input is a number",
    )
    assert f"new.csv: z holds {cell!r} in 1 of 2 rows" in told
    assert "data." not in told
    as_words = DataSettings(source="table", categories={"z": ["1", cell]})
    x, _ = known_inputs(rows, as_words, ["x", f"z={cell}"], "new.csv")
    assert x.tolist() == [[2.0, 0.0], [3.0, 1.0]]


@pytest.mark.parametrize("first", [2**53 + 1, 2**60 + 1, -(2**62) - 1])
def test_a_whole_number_that_would_be_rounded_is_refused(tmp_path, first):
    whole = first + 2 * np.arange(8)
    cells = of_cells(whole.tolist())
    assert str(first) in refusal(lambda: table(tmp_path, cells), "in 64 bits")
    target = cells.replace("x,z,label", "label,z,x")
    refusal(lambda: table(tmp_path, target, task="regression"), "label -?[0-9]+ cannot")
    assert str(first) in refusal(lambda: arrays(tmp_path, whole[:, None]), "in 64 bits")
    refusal(lambda: arrays(tmp_path, np.ones((8, 1)), whole, task="regression"), "in 64 bits")
    exact = table(tmp_path, of_cells((2**60 + 1024 * np.arange(8)).tolist()))
    assert exact.train.x[:, 0].tolist() == [float(2**60 + 1024 * n) for n in range(8)]


def test_the_files_that_lie_beside_are_named(tmp_path):
    table(tmp_path, of_cells(range(8)))
    (tmp_path / "b.csv.gz").write_bytes(b"\x1f\x8b")
    data = {"source": "table", "path": str(tmp_path)}
    experiment = Experiment.model_validate({"data": data, "model": {"name": "mlp"}})
    (note,) = _of_files(experiment.data)
    assert "(b.csv.gz)" in note
    assert "unpacked" in note
    (tmp_path / "b.csv.gz").unlink()
    assert not list(_of_files(experiment.data))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x z label\n1 2 0\n3 4 1\n", 'delimiter = " "'),
        ("x,z,label\n1,2,0\n".encode("utf-16-le"), "utf-16"),
        ("# exported in 2020\nx,z,label\n1,2,0\n", "remove the lines above the header"),
        ("# by a tool, v1\nx,z,label\n1,2,0\n", "remove the lines above the header"),
        ("1.5,2,0\n3.5,4,1\n", "first line seems to be"),
        ("x,z,label\n1e300,2,0\n3,4,1\n", "beyond 3.4e"),
        ("x,z,label\ninf,2,0\n3,4,1\n", "1 infinite values"),
    ],
)
def test_a_table_that_is_written_otherwise_says_how(tmp_path, content, words):
    refusal(lambda: table(tmp_path, content), words)


def test_blanks_separate_where_the_settings_say_so(tmp_path):
    raw = table(tmp_path, "x z label\n" + "1 2 0\n3 4 1\n" * 2, delimiter=" ")
    assert raw.train.x.tolist() == [[1, 2], [3, 4]] * 2


def test_no_row_decides_whether_blanks_separate_where_each_is_read_by_itself(tmp_path):
    for first in ("1 2 0", "7"):
        (tmp_path / "a.csv").write_text(f"x z label\n{first}\n")
        assert check_csv(str(tmp_path / "a.csv"), Dialect(as_text=True)).missing.keys() == {"x z label"}


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ones((8, 2), bool), "astype"),
        (np.ones((8, 2), np.complex64), "real and imaginary"),
        (np.ones((8, 2), "M8[D]"), "timedelta64"),
        (np.array([["a", "b"]] * 8), "codes of the texts"),
        (np.full((8, 2), 1e300), "beyond 3.4e"),
        (np.full((8, 2), np.inf), "not a finite number"),
        (np.zeros((8, 0)), "holds no number"),
        (np.zeros((8, 4, 0), np.uint8), "holds no number"),
    ],
)
def test_inputs_that_are_no_numbers_say_what_makes_some(tmp_path, x, words):
    refusal(lambda: arrays(tmp_path, x), words)


@pytest.mark.parametrize("y", [LABELS + 0j, LABELS.astype("M8[D]"), LABELS.astype([("a", "i4")])])
@pytest.mark.parametrize("by_record", [False, True])
def test_labels_that_are_neither_numbers_nor_texts_are_refused(tmp_path, y, by_record):
    read = lambda: arrays(tmp_path, np.eye(8), y, by_record=by_record, classes=["0", "1"])  # noqa: E731
    assert "as one of them" in refusal(read, "train labels are of type")


def test_a_text_among_numbers_is_the_one_that_is_named(tmp_path):
    content = "x,label\n" + "".join(f"{n},{n}.5\n" for n in range(7)) + "7,n/k\n"
    refusal(lambda: table(tmp_path, content, task="regression"), "not 'n/k'")


def test_a_label_that_is_missing_is_called_so(tmp_path):
    refusal(
        lambda: arrays(tmp_path, np.ones((8, 2)), np.where(LABELS, np.nan, 0.0)), "4 of 8 rows have no label"
    )


@pytest.mark.parametrize("source", ["table", "npz"])
def test_a_folder_with_the_name_of_a_file_is_called_so(tmp_path, source):
    suffix = {"table": "csv", "npz": "npz"}[source]
    (tmp_path / f"a.{suffix}").mkdir()
    refusal(lambda: read_silo(DataSettings(source=source, path=str(tmp_path)), "a"), "is a folder")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "ppm", "gif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_common_picture_is_read_and_not_refused(tmp_path, suffix, mode):
    """Every other test of pictures is content with a refusal."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).convert(mode).save(path)
    with Image.open(path) as written:
        expected = np.asarray(written.convert("RGB"))
    np.testing.assert_array_equal(
        load_images([path], DataSettings(source="images", channels=3)).x[0], expected
    )
