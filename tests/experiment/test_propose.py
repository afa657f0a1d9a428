"""``fedtl new``: what it proposes for folders as institutions have them, and what it refuses."""

import inspect
import tomllib

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedtl.cli import main, train
from fedtl.data.csv_guess import guess_dialect
from fedtl.errors import UserError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.propose.inputs import SILOS, UNITS, is_named
from fedtl.experiment.propose.propose import propose, write_proposal
from fedtl.experiment.propose.written import MAX_LINES
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.experiment import folders
from tests.experiments import ROUNDS_ONLY
from tests.pages.tutorial import ROOT, blocks

SEX = {"sex": ["f", "m"]}
DIRICHLET = {"silos": 4, "by": "dirichlet", "alpha": 1.0}
DATA = {  # what [data] must hold, besides source and path
    folders.a_csv_each: {"label": "outcome", "categories": SEX},
    folders.semicolons_in_latin_1: {
        **{
            "delimiter": ";",
            "decimal": ",",
            "encoding": "cp1252",
            "label": "outcome",
            "drop": ["Unnamed: 0"],
        },
        "categories": {"Geschlecht": ["f", "m"]},
    },
    folders.other_order_and_an_extra_column: {
        **{"label": "outcome", "columns": ["age", "pressure", "sex"], "categories": SEX}
    },
    folders.a_silo_of_one_class: {"label": "outcome", "categories": SEX},
    folders.regression: {"label": "price", "task": "regression", "categories": SEX},
    folders.many_texts: {"label": "severity", "categories": SEX},
    folders.a_silo_column: {
        **{"silo_column": "hospital", "unit_column": "patient", "label": "outcome", "drop": ["id"]},
        **{"dates": ["seen"], "categories": SEX},
    },
    folders.one_table: {"deal": DIRICHLET, "label": "outcome", "categories": SEX},
    folders.survival: {"label": "time", "event": "event", "task": "cox", "categories": SEX},
    folders.arrays: {"size": 12, "channels": 3},
    folders.series_in_one_file: {"silo_column": "site", "sequence": {}},
    folders.silos_of_pictures: {"size": 12, "channels": 3},
    folders.classes_of_pictures: {"deal": {**DIRICHLET, "silos": 2}},
    folders.a_row_a_step: {
        **{"label": "outcome", "sequence": {"id": "stay_id", "time": "hour", "length": 6}},
    },
    folders.listed_pictures: {
        **{"manifest": "list.csv", "file_column": "file", "silo_column": "clinic", "label": "diagnosis"}
    },
}
assert set(DATA) == set(folders.ALL)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("make", folders.ALL, ids=lambda make: make.__name__)
def test_the_proposal_is_short_and_holds_what_the_folder_shows(make, data, tmp_path):
    make(data)
    path = write_proposal(propose(data), data, tmp_path / "study")
    text = path.read_text()
    table = tomllib.loads(text)
    assert {key: one for key, one in table["data"].items() if key not in ("source", "path")} == DATA[make]
    assert len(text.splitlines()) <= MAX_LINES
    assert not table["data"]["path"].startswith(
        "/"
    )  # the two folders lie side by side and can be moved together
    assert set(table) == {"rounds", "data", "model", "train", "compare"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        folders.semicolons_in_latin_1,
        folders.survival,
        folders.series_in_one_file,
        folders.classes_of_pictures,
    ],
    ids=lambda make: make.__name__,
)
def test_a_round_of_the_proposal_runs(make, data, tmp_path):
    make(data)
    path = write_proposal(propose(data), data, tmp_path / "study")
    experiment = load_experiment(str(path), ["rounds=1", "compare.folds=1", *ROUNDS_ONLY])
    result = run(experiment, RunFolder.create(tmp_path / "run", experiment), "cpu")
    assert result.mean_silos[result.metric] == len(result.silos) > 1


@pytest.mark.parametrize("seed", range(6))
def test_a_folder_of_any_columns_is_proposed_for_or_refused_in_one_line(seed, data, tmp_path):
    """Random columns of random kinds, with gaps: whatever is written loads, and whatever is not is one line of a user's error."""
    rng = np.random.default_rng(seed)
    kinds = {
        "n": lambda n: rng.normal(size=n).round(3),
        "i": lambda n: rng.integers(-3, 40, n),
        "t": lambda n: rng.choice(list("abcde"), n),
        "m": lambda n: [f"x{i}" for i in rng.integers(0, 60, n)],
        "d": lambda n: pd.date_range("2020-01-01", periods=n).strftime("%d.%m.%Y"),
        "z": lambda n: [""] * n,
        "b": lambda n: rng.integers(0, 2, n).astype(bool),
    }
    chosen = rng.choice(list(kinds), rng.integers(2, 7))
    for silo in range(rng.integers(2, 4)):
        count = int(rng.integers(20, 50))
        frame = pd.DataFrame({f"{kind}{place}": kinds[kind](count) for place, kind in enumerate(chosen)})
        frame.mask(rng.random(frame.shape) < 0.02 * (seed % 2)).to_csv(
            data / f"s{silo}.csv", index=seed % 3 == 0
        )
    problem = None
    try:
        path = write_proposal(propose(data), data, tmp_path / "study")
    except UserError as error:
        problem = str(error)
    if problem is None:
        assert load_experiment(str(path)).data.source == "table"
    else:
        assert "\n" not in problem
        assert not (tmp_path / "study").exists()


def guess(data, topic, *changes):
    return next(one for one in propose(data, changes).guesses if one.topic == topic)


def test_a_label_that_is_guessed_names_the_others_and_one_that_is_set_does_not(data):
    for number in range(2):
        folders.rows(number).rename(columns={"outcome": "last"}).to_csv(data / f"{number}.csv", index=False)
    label = guess(data, "label")
    assert label.choice == "last, task classification"
    assert "sex" in label.doubt
    assert "data.label=NAME" in label.doubt
    chosen = guess(data, "label", "data.label=sex")
    assert (chosen.choice, chosen.doubt) == ("sex, task classification", "")
    assert guess(data, "label", "data.label=age").settings["data.task"] == "regression"


def one_table(data, **columns):
    folders.rows(3, 200).assign(**columns).to_csv(data / "all.csv", index=False)


@pytest.mark.parametrize(
    "name",
    [
        "patient",
        "patient_id",
        "Patient ID",
        "patientId",
        "PatientID",
        "patientid",
        "id_patient",
        "my patient",
        "patient-name",
    ],
)
def test_a_column_that_says_whose_row_it_is_is_named_so(name):
    assert is_named(name, UNITS)


@pytest.mark.parametrize(
    "name",
    [
        "patient_age",
        "PatientAge",
        "patient weight",
        "n_patient",
        "age_of_patient",
        "site_of_lesion",
        "hospital_days",
        "days in clinic",
    ],
)
def test_a_column_that_describes_a_person_or_an_institution_is_no_name_of_one(name):
    assert not is_named(name, (*UNITS, *SILOS))


@pytest.mark.parametrize("prefix", ["p", ""])
def test_units_that_repeat_a_little_are_units(prefix, data):
    one_table(data, patient_id=[f"{prefix}{1000 + n % 180}" for n in range(200)])
    settings = propose(data).settings["data"]
    assert settings["unit_column"] == "patient_id"
    assert "patient_id" not in settings.get("drop", [])


@pytest.mark.parametrize(
    ("name", "values", "key", "dropped"),
    [
        ("patient_id", [None, *range(1, 180), *range(1, 21)], "unit_column", ["patient_id"]),
        ("hospital", [None, *"A" * 99, *"B" * 100], "silo_column", []),
    ],
)
def test_an_empty_cell_of_a_unit_or_an_institution_is_said(name, values, key, dropped, data):
    one_table(data, **{name: values})
    doubts = " ".join(one.doubt for one in propose(data).guesses)
    assert f" fill it, then --set data.{key}={name}" in doubts
    assert propose(data).settings["data"].get("drop", []) == dropped


def test_a_column_named_as_institutions_are_is_an_input_only_with_a_doubt(data):
    for number in range(2):
        folders.rows(number).assign(region=["n", "s", "w"] * 20).to_csv(data / f"{number}.csv", index=False)
    assert "region" in guess(data, "inputs").doubt


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (("train", "valid", "test"), "write val instead of 'valid'"),
        (("Train", "Test"), "write train instead of 'Train'"),
        (("train", "other", "test"), "replace 'other'"),
        (("training", "val"), "write test in some rows"),
        (("train", None, "test"), "fill 50 empty cells"),
    ],
)
def test_a_split_in_another_spelling_is_refused_with_the_way_out(parts, problem, data):
    one_table(data, split=[*[parts[0]] * 100, *[parts[1]] * 50, *[parts[-1]] * 50])
    with pytest.raises(UserError) as refused:
        propose(data)
    assert problem in str(refused.value)
    left_out = propose(data, ['data.drop=["split"]']).settings["data"]
    assert left_out["drop"] == ["split"]
    assert "split_column" not in left_out


def test_a_split_that_the_reader_knows_is_the_split(data):
    one_table(data, split=["train"] * 120 + ["val"] * 30 + ["test"] * 50)
    assert propose(data, ["data.deal.silos=2"]).settings["data"]["split_column"] == "split"


def test_many_whole_numbers_of_images_may_be_amounts(data):
    x = np.random.default_rng(0).integers(0, 256, (280, 8, 8)).astype(np.uint8)
    for name in "ab":
        np.savez(data / f"{name}.npz", train_x=x, train_y=20 + np.arange(280) % 70)
    assert '"regression"' in guess(data, "label").doubt


def test_a_rare_label_is_compared_by_auc_and_many_rows_need_no_folds(data):
    for number in range(2):
        frame = folders.rows(number, 400)
        frame.assign(outcome=np.where(np.arange(400) % 20 == 0, "ill", "well")).to_csv(
            data / f"{number}.csv", index=False
        )
    settings = propose(data).settings["compare"]
    assert settings["metric"] == "auc"
    assert settings["seeds"] == [0, 1, 2]
    assert "folds" not in settings


def text_of(path, **files):
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)


def empty(path):
    pass


def two_formats(path):
    text_of(path, a_csv="x,y\n1,0\n2,1\n", b_csv="x;y\n1;0\n2;1\n")


def parts(path):
    text_of(path, train_csv="x,y\n1,0\n", test_csv="x,y\n1,0\n")


def loose_pictures(path):
    folders.pictures(path / "deep", 1)
    (path / "deep" / "0.png").rename(path / "0.png")
    (path / "deep").rmdir()


def no_label(path):
    text_of(path, a_csv="name,id\nu,1\nv,2\nw,3\n", b_csv="name,id\nx,1\ny,2\nz,3\n")


def below(path):
    (path / "north").mkdir()
    text_of(path / "north", data_csv="x,y\n1,0\n")


def question_marks(path):
    for number in range(2):
        frame = folders.rows(number)
        frame.assign(age=frame["age"].astype(str).where(frame.index > 2, "?")).to_csv(
            path / f"{number}.csv", index=False
        )


def matlab(path):
    text_of(path, a_mat="")


def images_and_masks(path):
    for kind in ("images", "masks"):
        (path / "a" / kind).mkdir(parents=True)
        folders.Image.new("L", (8, 8)).save(path / "a" / kind / "1.png")


@pytest.mark.parametrize(
    ("make", "way_out"),
    [
        (empty, "fedtl schema experiment"),
        (two_formats, "save all files"),
        (parts, "data.split_column"),
        (loose_pictures, "<silo>/<class>"),
        (no_label, "--set data.label=NAME"),
        (below, "data/north.csv"),
        (question_marks, "leave such cells empty"),
        (matlab, "scipy.io.loadmat"),
        (images_and_masks, 'data.task = "segmentation"'),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_what_cannot_be_guessed_is_one_line_with_the_way_out(make, way_out, data, tmp_path):
    make(data)
    with pytest.raises(UserError) as refused:
        propose(data)
    assert way_out in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_says_why_and_never_overwrites(data, tmp_path):
    folders.a_silo_of_one_class(data)
    words = ["new", str(tmp_path / "study"), "--data", str(data)]
    done = CliRunner().invoke(main.app, words)
    assert done.exit_code == 0, done.output
    path = tmp_path / "study" / "experiment.toml"
    before = path.read_bytes()
    assert "label: outcome, task classification (" in done.output
    assert "hospice" in done.output.split("Note: ")[1]  # a silo of one class is said to be one
    again = CliRunner().invoke(main.app, words)
    assert isinstance(again.exception, UserError)
    assert str(path) in str(again.exception)
    assert path.read_bytes() == before


def test_with_run_the_comparison_is_in_the_same_folder(data, tmp_path, monkeypatch):
    """``fedtl new --run`` is the command ``fedtl compare`` of the written file."""
    folders.a_csv_each(data)
    given, asked = inspect.signature(train.compare), []
    monkeypatch.setattr(
        train, "compare", lambda *words, **options: asked.append(given.bind(*words, **options).arguments)
    )
    done = CliRunner().invoke(main.app, ["new", str(tmp_path / "study"), "--data", str(data), "--run"])
    assert done.exit_code == 0, done.output
    study = tmp_path / "study"
    assert asked == [{"experiment": str(study / "experiment.toml"), "out": study / "comparison"}]
    assert "next:" not in done.output


def test_what_is_learned_from_rows_is_not_proposed_for_a_private_study(data):
    folders.a_csv_each(data)
    with pytest.raises(UserError, match="without noise"):
        propose(data, ["privacy.epsilon=3"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a,b\n1.5,2\n", (",", ".", "utf-8")),
        ("a;b\n1,5;2\n", (";", ",", "utf-8")),
        ('a,b\n"1,5",x\n"2,5",y\n', (",", ",", "utf-8")),
        ('a,b\n"1,234",x\n999,y\n', (",", ".", "utf-8")),  # thousands: with a decimal comma it would be 1.234
        ('a,b\n"1,234,567",x\n999,y\n', (",", ".", "utf-8")),
        ('a,b,c\n"1,234","1,5",x\n"2,345","2,25",y\n', (",", ",", "utf-8")),
        ("a\tb;c\n1\t2\n", ("\t", ".", "utf-8")),
        ("a;b\nx, y, z;1\n", (";", ".", "utf-8")),
        ("größe;b\n1;2\n", (";", ".", "cp1252")),
        ("a|b\n1|2\n", ("|", ".", "utf-16")),
    ],
)
def test_how_a_csv_file_is_written(text, wanted, tmp_path):
    (tmp_path / "a.csv").write_bytes(text.encode(wanted[2]))
    found = guess_dialect([tmp_path / "a.csv"])
    assert (found.delimiter, found.decimal, found.encoding) == wanted


@pytest.mark.parametrize(
    ("rows", "rare"), [(20, 5), (30, 6), (61, 8), (90, 45), (119, 10), (120, 12), (240, 9), (600, 30)]
)
def test_a_small_set_is_dealt_to_as_many_silos_as_it_has_rows_for(rows, rare, tmp_path):
    frame = pd.DataFrame(np.random.default_rng(rows).normal(size=(rows, 3)), columns=list("abc"))
    frame["outcome"] = ["ill" if row < rare else "well" for row in range(rows)]
    frame.to_csv(tmp_path / "all.csv", index=False)
    deal = propose(tmp_path).settings["data"]["deal"]
    assert deal["silos"] == max(2, min(4, rows // 60))
    assert deal.get("minimum", 20) <= rows / deal["silos"]


def test_the_page_shows_what_is_written(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "howto" / "own-data.md").read_text()
    shown = {block.language: block.text for block in blocks(page)}
    monkeypatch.chdir(tmp_path)
    exec(shown["python"], {})
    path = write_proposal(propose(tmp_path / "hospitals"), tmp_path / "hospitals", tmp_path / "study")
    assert shown["toml"] == path.read_text()
