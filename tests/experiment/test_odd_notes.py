"""Notes about what a file or a column is, beyond its values. Each is given for what it is about, and not for its neighbours."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedtl.data.odd_rows import summary_row
from fedtl.errors import DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.data_notes import data_notes
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.row_notes import row_notes
from tests.experiment.test_row_notes import PRIVATE, drawn, notes, tables

RNG = np.random.default_rng(0)


def notes_with(word, experiment):
    return [note for note in row_notes(experiment, read_data_schema(experiment)) if word in note]


def of_numbers(values):
    return [f"{v},{w},{number % 2}" for number, (v, w) in enumerate(values)]


@pytest.mark.parametrize("way", ["sum", "mean"])
@pytest.mark.parametrize("last", [True, False])
def test_a_row_of_totals(way, last):
    x = RNG.normal(50, 9, (40, 3)).round(2)
    x[3, 1] = np.nan
    total = pd.DataFrame(x).agg(way).round(2).to_numpy()
    assert summary_row(np.vstack([x, total] if last else [total, x])) == (41 if last else 1)
    assert summary_row(np.vstack([x, np.add(total, [0, 0, 9])])) is None
    assert summary_row(x) is None


def test_a_total_of_the_column_that_is_predicted_counts_too(tmp_path):
    rows = [f"{v:.3f},{100 + 3 * n % 17}" for n, v in enumerate(RNG.normal(size=40))]
    values = np.array([row.split(",") for row in rows], float)
    total = f"{values[:, 0].sum():.3f},{values[:, 1].sum():.0f}"
    sets = ["data.task=regression"]
    experiment = tables(tmp_path, *sets, header="v,label", a=[*rows, total], b=rows[:20])
    assert "a: row 41)" in notes_with("the sum or the mean", experiment)[0]


def test_labels_that_start_at_another_number(tmp_path):
    (note,) = notes(tables(tmp_path, a=drawn(labels="01"), b=drawn(labels="12"), c=drawn(labels="12")))
    assert "from 0 at a and from 1 at b, c" in note
    assert notes(tables(tmp_path, a=drawn(labels="01"), b=drawn(labels="12"), c=drawn(labels="13"))) == []
    for name in "bc":
        (tmp_path / f"{name}.csv").unlink()
    assert notes(tables(tmp_path, a=drawn(labels="01"), b=drawn(labels="012"))) == []


def test_columns_that_are_one_number_at_each_silo(tmp_path):
    rows = {
        name: [f"{v},{code},{n % 2}" for n, v in enumerate(RNG.normal(size=40))]
        for name, code in (("a", 3), ("b", 7))
    }
    (note,) = notes(tables(tmp_path, **rows))
    assert "each silo ('w')" in note
    assert notes(tables(tmp_path, a=rows["a"], b=drawn())) == []
    assert notes_with("one value", tables(tmp_path, *PRIVATE, "data.classes=['0','1']", **rows)) == []


def test_columns_that_differ_in_case_or_blanks(tmp_path):
    (note,) = notes(tables(tmp_path, header="age,Age\u00a0,label", a=drawn(), b=drawn()))
    assert "'Age\\xa0' and 'age'" in note


def test_a_column_that_is_named_with_a_blank(tmp_path):
    with pytest.raises(DataError, match="'label ' differs by"):
        notes(tables(tmp_path, header="v,w,label ", a=drawn(), b=drawn()))


def test_dates_that_are_read_as_numbers(tmp_path):
    days = pd.date_range("2023-11-01", periods=40).strftime("%Y%m%d").tolist()
    values = list(zip(RNG.normal(size=40).tolist(), days, strict=True))
    (note,) = notes_with("100 days", tables(tmp_path, a=of_numbers(values), b=drawn()))
    assert "a: 'w', such as 20231101" in note
    experiment = tables(tmp_path, "data.dates=['w']", a=of_numbers(values), b=of_numbers(values[:20]))
    assert notes_with("100 days", experiment) == []
    amounts = [(v, 20231000 + 7 * n) for n, (v, _) in enumerate(values)]  # of which some are no dates
    assert notes_with("100 days", tables(tmp_path, a=of_numbers(amounts), b=drawn())) == []


def test_a_day_that_the_calendar_does_not_have_is_called_so(tmp_path):
    rows = [f"0.5,{day},{n % 2}" for n, day in enumerate(["20240101", "20240231"] * 20)]
    with pytest.raises(DataError, match="'20240231' .*not a date"):
        notes(tables(tmp_path, "data.dates=['w']", a=rows, b=rows))


def test_dates_that_stand_for_none(tmp_path):
    days = pd.date_range("2023-11-01", periods=40).strftime("%Y-%m-%d").tolist()
    ends = [*days[:-2], "9999-12-31", "9999-12-31"]
    experiment = tables(
        tmp_path,
        "data.dates=['w']",
        a=of_numbers(zip(RNG.normal(size=40), ends, strict=True)),
        b=of_numbers(zip(RNG.normal(size=40), days, strict=True)),
    )
    (note,) = notes_with("a date far from all others", experiment)
    assert "(a: 'w' = 9999-12-31 in 2 rows)" in note


def test_years_of_two_digits(tmp_path):
    rows = [f"{v},0{1 + n % 9}.02.{n % 90 + 10},{n % 2}" for n, v in enumerate(RNG.normal(size=40))]
    sets = ["data.dates=['w']", "data.date_format='%d.%m.%y'"]
    assert notes_with("of two digits", tables(tmp_path, *sets, a=rows, b=rows[:20]))


def test_rows_without_a_value(tmp_path):
    (note,) = notes(tables(tmp_path, a=[*drawn(), ",,1", ",,0"], b=drawn()))
    assert "(a: 2 of 42)" in note


def series(path, length):
    rows = [
        f"p{name},{step},{RNG.normal():.3f},{name % 2}\n"
        for name in range(24)
        for step in range(length(name))
    ]
    for silo in "ab":
        path.mkdir(exist_ok=True)
        (path / f"{silo}.csv").write_text("id,t,v,label\n" + "".join(rows))
    sets = ["data.source=table", f"data.path={path}", "model.name=convnet1d"]
    return load_experiment("digits", [*sets, 'data.sequence={id="id",time="t",length=8}'])


def test_series_whose_length_gives_the_label(tmp_path):
    (note,) = notes_with("how rows were stored", series(tmp_path / "one", lambda name: 8 - name % 2))
    assert "a: the number of steps (1.000)" in note
    assert not notes_with("how rows were stored", series(tmp_path / "other", lambda name: 8 - name % 3))


def pictures(path, save):
    for silo in "ab":
        for label in ("cat", "dog"):
            (path / silo / label).mkdir(parents=True)
            for number in range(12):
                pixels = RNG.integers(0, 256, (12, 12, 3)).astype(np.uint8)
                save(pixels, label == "cat", path / silo / label / str(number))
    return load_experiment("digits", ["data.source=images", f"data.path={path}", "data.size=12"])


PROPERTIES = {
    "the format of a file": lambda x, cat, file: Image.fromarray(x).save(f"{file}.{'jpg' if cat else 'png'}"),
    "whether a file has colours": lambda x, cat, file: Image.fromarray(x if cat else x[..., 0]).save(
        f"{file}.png"
    ),
    "the height of a file": lambda x, cat, file: Image.fromarray(x if cat else x[:11]).save(f"{file}.png"),
    "": lambda x, cat, file: Image.fromarray(x).save(f"{file}.png"),
    # One class has both.
    " ": lambda x, cat, file: Image.fromarray(x).save(
        f"{file}.{'jpg' if cat and int(file.name) % 2 else 'png'}"
    ),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_pictures_whose_files_give_the_label(name, tmp_path):
    experiment = pictures(tmp_path / "data", PROPERTIES[name])
    found = notes_with("how rows were stored", experiment)
    assert bool(found) == bool(name.strip())
    if name.strip():
        assert f"a: {name} (1.000)" in found[0]


def test_properties_of_files_that_are_dealt(tmp_path):
    for label, suffix in (("cat", "jpg"), ("dog", "png")):
        (tmp_path / "all" / label).mkdir(parents=True)
        for number in range(60):
            pixels = RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "all" / label / f"{number}.{suffix}")
    sets = ["data.source=images", f"data.path={tmp_path / 'all'}", "data.silos=[]"]
    experiment = load_experiment("digits", [*sets, 'data.deal={by="iid",silos=2}'])
    assert "silo-1: the format of a file (1.000)" in notes_with("how rows were stored", experiment)[0]


def test_what_excel_hides_is_said_to_be_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    for name in "ab":
        book = openpyxl.Workbook()
        sheet = book.active
        for row in ["v,w,label", *drawn()]:
            sheet.append([float(cell) if cell[-1].isdigit() else cell for cell in row.split(",")])
        if name == "a":
            for row in (5, 6, 9):
                sheet.row_dimensions[row].hidden = True
            sheet.column_dimensions["B"].hidden = True
        book.save(tmp_path / f"{name}.xlsx")
    (note,) = notes(
        load_experiment("digits", ["data.source=table", f"data.path={tmp_path}", "model.name=mlp"])
    )
    assert "(a: 3 rows that Excel hides" in note
    assert "('w')" in note


def masks(path, palettes, turned=False):
    """Masks of 0 and 1 with a palette for each silo, or for each of its files."""
    for silo, own in palettes.items():
        for folder in ("images", "masks"):
            (path / silo / folder).mkdir(parents=True)
        for number in range(6):
            exif = Image.Exif()
            if turned and number % 2:
                exif[0x0112] = 6
            pixels = RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path / silo / "images" / f"{number}.png", exif=exif)
            mask = Image.fromarray((pixels[..., 0] > 99).astype(np.uint8))
            if own:
                mask.putpalette(own[number % len(own)])
            mask.save(path / silo / "masks" / f"{number}.png")
    sets = [
        "data.source=images",
        f"data.path={path}",
        "data.task=segmentation",
        "data.classes=['none','some']",
    ]
    return load_experiment("digits", [*sets, "model.name=unet"])


RED, BLACK = [0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0]


def test_palettes_in_which_a_number_has_two_colours(tmp_path):
    with pytest.raises(DataError, match=r"1.png: .*\(255, 0, 0\) .*\(0, 0, 0\)"):
        notes(masks(tmp_path / "one", {"a": [RED, BLACK]}))
    (note,) = notes_with("of masks has the colour", masks(tmp_path / "two", {"a": [RED], "b": [BLACK]}))
    assert "at a and (255, 0, 0) at b" in note
    for own in ([RED], []):
        assert not notes_with("of masks", masks(tmp_path / f"same{len(own)}", {"a": own, "b": own}))


def test_masks_of_images_that_are_turned(tmp_path):
    (note,) = notes_with("(EXIF)", masks(tmp_path / "one", {"a": []}, turned=True))
    assert "3 images such as 1.png" in note
    assert not notes_with("(EXIF)", masks(tmp_path / "two", {"a": []}))


def test_a_sum_far_from_zero_is_not_a_mean():
    x = 3000 + RNG.normal(size=(40, 3))
    assert summary_row(x.astype(np.float16).astype(float)) is None


def test_values_far_from_all_others(tmp_path):
    rows = drawn()
    odd = [*rows[:-1], "0.5,1e12,1"]
    (note,) = notes_with("10,000 times", tables(tmp_path, a=odd, b=rows))
    assert "(a: 'w': 1e+12, in 1 rows)" in note
    heavy = [f"{v},{np.exp(2 * w)},{n % 2}" for n, (v, w) in enumerate(RNG.normal(size=(4000, 2)))]
    assert not notes_with("10,000 times", tables(tmp_path, a=heavy, b=rows))


def test_a_target_with_a_number_for_a_missing_value(tmp_path):
    rows = [f"{v},{w}" for v, w in RNG.normal(size=(40, 2))]
    odd = [
        f"{v},-999" if n % 5 == 0 else row
        for n, (v, row) in enumerate(zip(RNG.normal(size=40), rows, strict=True))
    ]
    experiment = tables(tmp_path, "data.task=regression", header="v,label", a=odd, b=rows)
    assert "a: 'label' = -999 in 8 rows" in notes_with("may stand for a missing value", experiment)[0]


def arrays(path, train, test):
    path.mkdir()
    y = np.arange(len(train)) % 2
    for silo, shift in (("a", 0), ("b", 1)):
        np.savez(
            path / f"{silo}.npz",
            train_x=np.roll(train, shift, -1),
            train_y=y,
            test_x=np.roll(test, shift, -1),
            test_y=y[: len(test)],
        )
    return load_experiment("digits", ["data.source=npz", f"data.path={path}", "model.name=linear"])


def test_test_rows_in_another_unit(tmp_path):
    x, test = RNG.random((40, 8, 8)), RNG.random((12, 8, 8))
    (note,) = notes_with("in another unit", arrays(tmp_path / "one", x, 255 * test))
    assert "a: 'the values' 2" in note
    assert not notes_with("in another unit", arrays(tmp_path / "two", x, test))
    (note,) = notes_with(
        "in another unit", arrays(tmp_path / "three", x[:, 0], test[:, 0] * np.r_[np.ones(7), 0.01])
    )
    assert "a: '7' 0.0" in note


def test_images_that_are_all_equal(tmp_path):
    same, other = np.full((40, 8, 8), 7, np.uint8), RNG.integers(0, 256, (12, 8, 8)).astype(np.uint8)
    assert notes_with("are equal (a, b)", arrays(tmp_path / "one", same, other))
    assert not notes_with("are equal", arrays(tmp_path / "two", other, same[:4]))


def test_a_target_that_is_one_number(tmp_path):
    rows = [f"{v},3" for v in RNG.normal(size=40)]
    experiment = tables(tmp_path, "data.task=regression", header="v,label", a=rows, b=drawn_values())
    lines = data_notes(experiment, method_of(experiment.method), read_data_schema(experiment))
    assert any("rows of a, so" in line for line in lines)


def drawn_values():
    return [f"{v},{w}" for v, w in RNG.normal(size=(40, 2))]
