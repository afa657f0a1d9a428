"""predict.py of an export refuses what ``fedtl predict`` refuses, and predicts the same rows."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from fedtl.data.input_files import read_inputs
from fedtl.errors import DataError
from tests.data.test_colours import ADOBE, profile
from tests.experiment.test_export_script import check, exported, refused

SETS = (
    *("data.source=table", "model.name=mlp", 'data.columns=["x","sex","stage","seen"]'),
    *('data.categories={sex=["f","m"]}', 'data.ordered={stage=["I","II"]}', 'data.dates=["seen"]'),
)
HEADER, ROW = "x,sex,stage,seen", "0.5,f,II,2024-05-05"
REFUSED = {
    "another category": (f"{HEADER}\n{ROW}\n0.5,F,II,2024-05-05\n", "line 3: sex holds 'F'"),
    "another rank": (f"{HEADER}\n0.5,f,III,2024-05-05\n", "stage holds 'III'"),
    "another form of dates": (f"{HEADER}\n0.5,f,II,05.05.2024\n", "seen holds '05.05.2024'"),
    "a text": (f"{HEADER}\nhigh,f,II,2024-05-05\n", "x holds 'high'"),
    "a decimal comma": (f'{HEADER}\n"0,5",f,II,2024-05-05\n', "x holds '0,5'"),
    "a mark between digits": (f"{HEADER}\n1_0,f,II,2024-05-05\n", "x holds '1_0'"),
    "an infinite value": (f"{HEADER}\ninf,f,II,2024-05-05\n", "x holds 'inf'"),
    "a value too large": (f"{HEADER}\n1e300,f,II,2024-05-05\n", "x holds '1e300'"),
    "two columns of one name": (f"x,{HEADER}\n1,{ROW}\n", "has 2 column 'x'"),
    "a column too few": ("x,sex,stage\n0.5,f,II\n", "no column 'seen'"),
    "a longer row": (f"{HEADER}\n{ROW},7\n", "line 2 has 5 fields"),
    "a shorter row": (f"{HEADER}\n0.5,f,II\n", "line 2 has 3 fields"),
    "no row": (f"{HEADER}\n", "has no rows"),
    "nothing": ("", "no column 'x'"),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strict")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for silo in "ab":
        rows = [
            f"{rng.normal() + row % 2:.3f},{'fm'[row % 3 > 0]},{'I' * (1 + row % 4 // 2)},2024-01-{1 + row % 28:02},{row % 2}"
            for row in range(40)
        ]
        (folder / "data" / f"{silo}.csv").write_text("\n".join([f"{HEADER},label", *rows]) + "\n")
    return exported(folder, folder / "data", *SETS)


@pytest.mark.parametrize("case", REFUSED)
def test_what_fedtl_refuses_the_script_refuses_in_one_line(case, table, tmp_path, monkeypatch):
    model, script = table
    text, words = REFUSED[case]
    file = tmp_path / "new.csv"
    file.write_text(text)
    if case != "no row":  # which the command refuses, not the reader
        with pytest.raises(DataError):
            read_inputs(file, model.experiment.data, model.inputs, model.shape)
    said = refused(script, [str(file)], monkeypatch)
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{HEADER}\r\n{ROW}\r\n\r\n,,,\r\n",
        f"seen,id,{HEADER[:-5]}\n2024-05-05T10:00+02:00,7,5e-1,m,I\n",
        '"x","sex","stage","seen"\n"NA","","","2024-05-05"\n',
    ],
)
def test_what_both_read_is_predicted_alike(text, table, tmp_path, monkeypatch, capsys):
    model, script = table
    (tmp_path / "new.csv").write_bytes(text.encode())
    check(model, script, tmp_path / "new.csv", monkeypatch, capsys)


@pytest.mark.parametrize("shape", [(3, 1), (3,), (0, 5), (3, 5, 1)])
def test_an_array_of_another_shape_is_refused(shape, table, tmp_path, monkeypatch):
    _, script = table
    np.save(tmp_path / "new.npy", np.zeros(shape))
    assert "the model takes [N, " in refused(script, [str(tmp_path / "new.npy")], monkeypatch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for silo in "ab":
        for label, low in (("dark", 0), ("light", 130)):
            (folder / "data" / silo / label).mkdir(parents=True)
            for number in range(8):
                save(COLOURS // 2 + low + number, folder / "data" / silo / label / f"{number}.png")
    sets = ["data.source=images", "data.size=8", "model.settings.widths=[4,4,4]"]
    return exported(folder, folder / "data", *sets)


COLOURS = np.random.default_rng(0).integers(0, 240, (8, 8, 3)).astype(np.uint8)


def save(pixels, path, **keys):
    Image.fromarray(pixels.astype(np.uint8)).save(path, **keys)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file: save(np.dstack([COLOURS, COLOURS[..., 0]]), file), "is transparent in places"),
        (lambda file: save(COLOURS, file, icc_profile=profile(b"RGB ", 2.19921875, ADOBE)), "colour profile"),
        (
            lambda file: save(
                COLOURS, file, save_all=True, append_images=[Image.fromarray(COLOURS[::-1].copy())]
            ),
            "holds 2 images",
        ),
        (lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "cannot be read"),
    ],
)
def test_a_picture_that_fedtl_refuses_or_converts_is_refused(write, words, pictures, tmp_path, monkeypatch):
    write(tmp_path / "new.png")
    said = refused(pictures[1], [str(tmp_path / "new.png")], monkeypatch)
    assert words in said or "is not a .csv" in said
    assert "\n" not in said


@pytest.mark.parametrize("profile_of", [None, "sRGB"])
def test_a_picture_of_srgb_is_predicted_alike(profile_of, pictures, tmp_path, monkeypatch, capsys):
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if profile_of else None
    save(COLOURS, tmp_path / "new.png", icc_profile=plain)
    check(*pictures, tmp_path / "new.png", monkeypatch, capsys)
