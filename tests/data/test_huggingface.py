"""Folders that Hugging Face's datasets wrote: images and tables, parts, class names, silos by folder, column or deal."""

import numpy as np
import pytest
from PIL import Image

from fedtl.data.prepare import read_silo, silo_names
from fedtl.data.settings import DataSettings, DealSettings
from fedtl.errors import DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.propose.propose import propose, write_proposal

datasets = pytest.importorskip("datasets")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 6, 5, 3), np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    features = datasets.Features(
        {
            "scan": datasets.Image(),
            "label": datasets.ClassLabel(names=["healthy", "ill"]),
            "hospital": datasets.Value("string"),
        }
    )

    def part(pixels):
        rows = [Image.fromarray(one) for one in pixels]
        where = ["north" if number % 3 else "south" for number in range(len(rows))]
        labels = [number % 2 for number in range(len(rows))]
        return datasets.Dataset.from_dict({"scan": rows, "label": labels, "hospital": where}, features)

    path = tmp_path_factory.mktemp("hf") / "scans"
    saved = {"train": part(PIXELS), "validation": part(PIXELS[:6]), "extra": part(PIXELS[:4])}
    datasets.DatasetDict(saved).save_to_disk(path)
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables")
    for name in ("a", "b"):
        columns = {"age": [1.5, None, *range(18)], "label": ["n", "y"] * 10, "notes": [[1]] * 20}
        datasets.Dataset.from_dict(columns).save_to_disk(path / name)
    (path / "other").mkdir()
    return path


def settings(path, **changes):
    return DataSettings(source="huggingface", path=str(path), **changes)


def test_images_keep_their_pixels_class_names_and_parts(pictures):
    raw = read_silo(settings(pictures), "scans")
    assert np.array_equal(raw.train.x, PIXELS)
    assert raw.train.y.tolist() == ["healthy", "ill"] * 12
    assert np.array_equal(raw.val.x, PIXELS[:6])
    assert raw.unread == ("the part extra (4 rows) is not read",)
    small = read_silo(settings(pictures, size=4, channels=1), "scans").train.x
    wanted = Image.fromarray(PIXELS[3]).resize((4, 4), Image.Resampling.BILINEAR).convert("L")
    assert np.array_equal(small[3], wanted)


def test_a_column_or_a_deal_makes_silos_of_one_set(pictures):
    chosen = settings(pictures, silo_column="hospital")
    assert silo_names(chosen) == ["north", "south"]
    assert np.array_equal(read_silo(chosen, "south").train.x, PIXELS[::3])
    dealt = settings(pictures, deal=DealSettings(silos=3, minimum=4, by="iid"))
    silos = [read_silo(dealt, name).train for name in silo_names(dealt)]
    assert sorted(bytes(row) for silo in silos for row in silo.x) == sorted(map(bytes, PIXELS))
    with pytest.raises(DataError, match="no column 'clinic'"):
        silo_names(settings(pictures, silo_column="clinic"))


def test_each_folder_is_a_silo_and_a_missing_value_stays_one(tables):
    chosen = settings(tables)
    assert silo_names(chosen) == ["a", "b"]
    raw = read_silo(chosen, "b")
    assert raw.columns == ("age",)
    assert np.isnan(raw.train.x[1, 0])
    assert raw.train.x[[0, 2], 0].tolist() == [1.5, 0.0]
    assert raw.train.y.tolist() == ["n", "y"] * 10
    assert "the column notes is not read" in raw.unread[0]


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match="save_to_disk"):
        silo_names(settings(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        read_silo(settings(tmp_path), "a")


def test_with_by_record_an_empty_cell_does_not_round_the_number_of_another_row(tmp_path):
    number = 2**53 + 1  # which no float is
    for name, last in (("a", 7), ("b", None)):
        columns = {"v": [number, 5, last, 6], "label": ["n", "y"] * 2}
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / name)
    own = settings(tmp_path, by_record=True, categories={"v": [str(number)]})
    found = [read_silo(own, name).train.x for name in ("a", "b")]
    assert found[0][:2].tolist() == found[1][:2].tolist() == [[1.0], [0.0]]


def test_an_experiment_is_proposed_for_folders_and_for_one_set_with_a_column_of_institutions(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        columns = {
            "patient_age": rng.normal(60, 9, 40).tolist(),
            "outcome": ["n", "y"] * 20,
            "sex": ["f", "m"] * 20,
        }
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "two" / name)
    silos = propose(tmp_path / "two").settings["data"]
    assert silos == {
        **{"source": "huggingface", "path": str(tmp_path / "two"), "label": "outcome"},
        "categories": {"sex": ["f", "m"]},
    }
    features = datasets.Features(
        {
            "scan": datasets.Image(),
            "label": datasets.ClassLabel(names=["healthy", "ill"]),
            "hospital": datasets.Value("string"),
        }
    )
    rows = [Image.fromarray(one) for one in RNG.integers(0, 256, (40, 8, 8, 3), np.uint8)]
    columns = {"scan": rows, "label": [0, 1] * 20, "hospital": ["north", "north", "south", "south"] * 10}
    datasets.Dataset.from_dict(columns, features).save_to_disk(tmp_path / "one")
    path = write_proposal(propose(tmp_path / "one"), tmp_path / "one", tmp_path / "study")
    data = load_experiment(str(path)).data
    assert (data.source, data.silo_column, data.label) == ("huggingface", "hospital", "label")
    assert sorted(silo_names(data)) == ["north", "south"]
