"""Folders that Hugging Face's datasets wrote: images and tables, parts, class names, silos by folder, column or deal."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedtl.data.prepare import read_silo, silo_names
from fedtl.data.settings import DataSettings, DealSettings
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.propose.propose import propose, write_proposal
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.experiments import ROUNDS_ONLY

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
    assert [note.split(" is ")[0] for note in raw.unread] == ["the part extra (4 rows)"]
    resized = read_silo(settings(pictures, size=4, channels=1), "scans")
    small = resized.train.x
    assert resized.sizes == {PIXELS.shape[1:3]: 24 + 6}
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
    assert "column notes" in raw.unread[0]


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


COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with two commits of one set, as a download leaves them; the network must not be asked."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")
    folder = tmp_path / "hub" / "datasets--clinic--visits"
    for number, commit in enumerate(COMMITS):
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        ages = range(16)
        columns = {"commit": number, "age": ages, "label": ["n", "y"] * 8, "site": ["a", "a", "b", "b"] * 4}
        pd.DataFrame(columns).to_parquet(snapshot / "train.parquet")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMITS[1])
    (folder / "refs" / "v1").write_text(COMMITS[0])
    return folder


def of_hub(name="clinic/visits", **changes):
    return settings(f"hf-hub:{name}", drop=[] if "silo_column" in changes else ["site"], **changes)


def test_a_set_of_the_hub_is_read_from_the_cache_at_its_commit(hub):
    raw = read_silo(of_hub(), "visits")
    assert silo_names(of_hub()) == ["visits"]
    assert raw.columns == ("commit", "age")
    assert raw.train.x[:, 0].tolist() == [1.0] * 16
    assert raw.train.x[:, 1].tolist() == list(range(16))
    assert raw.train.y.tolist() == ["n", "y"] * 8
    for revision in ("v1", COMMITS[0]):
        assert read_silo(of_hub(revision=revision), "visits").train.x[0, 0] == 0.0
    chosen = of_hub(silo_column="site")
    assert silo_names(chosen) == ["a", "b"]
    assert read_silo(chosen, "b").train.x[:, 1].tolist() == [2, 3, 6, 7, 10, 11, 14, 15]


def test_a_run_writes_down_the_commit_that_it_read(hub, tmp_path):
    sets = ["data.source=huggingface", "data.path=hf-hub:clinic/visits", "data.silos=[]", "rounds=1"]
    sets += [
        "data.silo_column=site",
        "data.min_rows=4",
        "model.name=linear",
        "engine.name=serial",
        *ROUNDS_ONLY,
    ]
    folder = RunFolder.create(tmp_path / "run", load_experiment("digits", sets))
    run(folder.experiment(), folder)
    assert folder.experiment().data.revision == COMMITS[1]
    assert folder.experiment().data.path == "hf-hub:clinic/visits"
    (hub / "refs" / "main").write_text(COMMITS[0])  # the set was changed at the hub, and downloaded again
    assert read_silo(folder.experiment().data, "a").train.x[0, 0] == 1.0


def test_what_is_not_here_and_what_would_run_code_is_refused_in_one_line(hub):
    def refused(own, words):
        with pytest.raises(DataError, match=words) as caught:
            read_silo(own, "visits")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    said = refused(of_hub("clinic/others"), "clinic/others is not in the cache")
    assert "Dataset.save_to_disk" in said
    assert "data.download" in said
    refused(of_hub(revision="v2"), "visits at v2 is not")
    refused(of_hub(subset="second"), "data.subset")
    snapshot = hub / "snapshots" / COMMITS[0]
    (snapshot / "visits.py").write_text("raise SystemExit")
    refused(of_hub(revision="v1"), "is a script, visits.py")
    (snapshot / "visits.py").unlink()
    (snapshot / "train.parquet").rename(snapshot / "train.txt")
    refused(of_hub(revision="v1"), "format 'text'")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["data.source=npz", "data.revision=v1"], "data.revision is a setting"),
        (["data.source=table", "data.download=true"], "data.download is a setting"),
        (["data.source=huggingface", "data.subset=x"], "data.subset is a setting"),
    ],
)
def test_keys_of_the_hub_are_for_the_hub(sets, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        load_experiment("digits", [f"data.path={tmp_path}", "data.silos=[]", *sets])
