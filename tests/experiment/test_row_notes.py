"""Notes about what was read and what was not; and the report of ``fedtl data``."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedtl.cli import main
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.data_notes import data_notes
from fedtl.experiment.data_report import data_report
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.row_notes import row_notes
from fedtl.report.data_tables import label_text, silo_lines
from fedtl.simulation.shared_store import temporary_store

RNG = np.random.default_rng(0)
PRIVATE = ["privacy.epsilon=3", "data.scale='none'", "data.columns=['v']"]


def tables(path, *sets, header="v,w,label", **rows):
    for name, text in rows.items():
        (path / f"{name}.csv").write_text(header + "\n" + "".join(f"{row}\n" for row in text))
    return load_experiment("digits", ["data.source=table", f"data.path={path}", "model.name=mlp", *sets])


def drawn(count=40, labels="01"):
    values = RNG.normal(size=(count, 2)).tolist()
    return [f"{v},{w},{labels[number // 2 % len(labels)]}" for number, (v, w) in enumerate(values)]


def notes(experiment):
    return list(row_notes(experiment, read_data_schema(experiment)))


def test_sound_rows_have_no_note(tmp_path):
    assert notes(tables(tmp_path, a=drawn(), b=drawn())) == []


def test_labels_that_no_other_silo_has(tmp_path):
    told = notes(tables(tmp_path, a=drawn(labels=["yes", "no"]), b=drawn(labels=["Yes", "No"])))
    assert "'Yes' at b; 'yes' at a" in " ".join(told)
    assert any(note.startswith("no other silo has a label of a, b") for note in told)
    assert notes(tables(tmp_path, a=drawn(labels=["yes", "no"]), b=drawn(labels=["no", "dead"]))) == []


def test_two_silos_with_one_file_and_rows_that_occur_twice(tmp_path):
    rows = drawn()
    (note,) = notes(tables(tmp_path, a=rows, b=rows))
    assert "a and b: 40 rows" in note
    (note,) = notes(tables(tmp_path, a=rows * 2, b=drawn()))
    assert "a: 40 of 80 rows" in note


@pytest.mark.parametrize("private", [False, True])
def test_two_silos_with_rows_that_are_nearly_the_same(tmp_path, private):
    values = RNG.normal(size=(40, 2))
    one, other = ([f"{v},{w},{n % 2}" for n, (v, w) in enumerate(values + noise)] for noise in (0, 1e-7))
    sets = [*PRIVATE, "data.classes=['0','1']"] if private else []
    experiment = tables(tmp_path, *sets, a=one, b=other)
    told = [note for note in notes(experiment) if "nearly the same" in note]
    assert len(told) == (not private)
    if not private:
        assert "a and b: " in told[0]
    with temporary_store() as store:
        report = data_report(experiment, store)
    assert 36 <= report.near_common["a, b"] <= 40  # a number may lie where rounding goes up or down
    assert any("nearly the same inputs" in line for line in silo_lines(report))


@pytest.mark.parametrize("private", [False, True])
def test_a_nameless_column_that_counts_rows(tmp_path, private):
    rows = [f"{number},{row}" for number, row in enumerate(drawn())]
    experiment = tables(tmp_path, header=",v,w,label", a=rows, b=rows[::-1])
    (note, *_) = notes(experiment)
    assert "b" in note
    assert "'Unnamed: 0'" in note
    assert "data.drop" in note
    assert not notes(
        tables(
            tmp_path,
            "data.drop=['Unnamed: 0']",
            header=",v,w,label",
            a=rows,
            b=[f"1,{row}" for row in drawn()],
        )
    )


def test_a_private_experiment_tells_nothing_of_the_rows(tmp_path):
    one, other = drawn(labels=["yes", "no"]), drawn(labels=["Yes", "No"])
    assert notes(tables(tmp_path, a=one, b=other))
    sets = [*PRIVATE, "data.classes=['yes','no','Yes','No']"]
    assert notes(tables(tmp_path, *sets, a=one, b=other)) == []


def test_an_outcome_among_the_inputs(tmp_path):
    rows = [f"{row},{row[-1]}.5" for row in drawn()]
    (note,) = notes(tables(tmp_path, header="v,w,label,late", a=rows, b=drawn_with_noise()))
    assert "a: 'late' (1.000)" in note
    assert "data.drop" in note


def drawn_with_noise():
    return [f"{row},{value}" for row, value in zip(drawn(), RNG.normal(size=40), strict=True)]


@pytest.mark.parametrize(
    ("a", "b", "part"),
    [
        (
            RNG.integers(0, 2, (20, 8, 8)).astype(np.uint8),
            RNG.integers(0, 256, (20, 8, 8)).astype(np.uint8),
            "(a: 1 of 0..255)",
        ),
        (RNG.random((20, 8, 8)), RNG.integers(0, 256, (20, 8, 8)).astype(np.uint8), "a other numbers"),
        (*RNG.integers(0, 256, (2, 20, 64, 3)).astype(np.uint8), "64 x 3 px"),
        (*RNG.random((2, 20, 9, 8)), "grey image of 9 x 8 px"),
        (RNG.random((20, 8, 8, 8)), RNG.random((20, 8, 8, 8)), "8 channels"),
    ],
)
def test_how_images_are_read(tmp_path, a, b, part):
    for name, x in (("a", a), ("b", b)):
        np.savez(tmp_path / f"{name}.npz", train_x=x, train_y=np.arange(20) % 2)
    (note,) = notes(load_experiment("digits", ["data.source=npz", f"data.path={tmp_path}"]))
    assert part in note


def test_the_report_has_the_rows_that_were_read_and_those_that_were_not(tmp_path):
    rows = [f"{row},x{number},{number // 4}" for number, row in enumerate(drawn())]
    rows[3] = rows[3].replace(rows[3].split(",")[0], "", 1)
    experiment = tables(
        tmp_path,
        "data.columns=['v','w']",
        "data.unit_column='pid'",
        "data.limit=20",
        header="v,w,label,note,pid",
        a=rows + rows[:4],
        b=rows,
    )
    with temporary_store() as store:
        report = data_report(experiment, store)
    a = report.silos["a"]
    assert (a.stored, a.inputs, a.labels) == (44, "2 columns", {"0": 22, "1": 22})
    assert a.stored > a.train + a.val + a.test
    assert a.ignored == ("note",)
    assert a.missing == {"v": 2}
    assert a.repeated == 4
    assert report.common == {"a, b": 40}
    assert label_text(a) == "0: 22, 1: 22"
    lines = list(silo_lines(report))
    for part in ("a: columns that are not read: note", "a: missing cells: v 2", "a and b: 40 training rows"):
        assert any(line.startswith(part) for line in lines)
    assert any("rows in common" in note for note in report.notes)


def test_the_command_prints_files_that_are_not_read(tmp_path):
    for silo in "ab":
        for kind in ("cat", "dog"):
            (tmp_path / "rows" / silo / kind).mkdir(parents=True)
            for number in range(8):
                pixels = RNG.integers(0, 256, (8, 8)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "rows" / silo / kind / f"{number}.png")
    (tmp_path / "rows" / "a" / "cat" / "scan.mha").touch()
    (tmp_path / "e.toml").write_text(f'[data]\nsource = "images"\npath = "{tmp_path / "rows"}"\n')
    done = CliRunner().invoke(main.app, ["data", str(tmp_path / "e.toml"), "--json"])
    assert (done.exit_code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["silos"]["a"]["unread"] == ["1 file of a/cat not read (1 .mha)"]
    assert report["silos"]["b"]["labels"] == {"cat": 8, "dog": 8}
    assert report["silos"]["b"]["inputs"] == "grey images of 8 x 8 px, 0..255"
    assert any("not everything was read" in note for note in report["notes"])


def test_columns_without_a_use_of_a_silo_with_accents_in_its_name(tmp_path):
    experiment = tables(tmp_path, "data.drop=['w']", a=drawn(), **{"Zürich West": drawn()})
    with temporary_store() as store:
        silos = data_report(experiment, store).silos
    assert {name: silo.ignored for name, silo in silos.items()} == {"a": ("w",), "Zurich_West": ("w",)}


def test_counts_that_are_large_for_the_learning_rate_are_noted(tmp_path):
    rows = {name: [f"{v},{v % 7},{mean}" for v in range(40)] for name, mean in (("a", 2), ("b", 300))}

    def told(*sets, task="counts", scale="none"):
        experiment = tables(tmp_path, f"data.task={task}", f"data.scale={scale}", *sets, **rows)
        lines = data_notes(experiment, method_of(experiment.method), read_data_schema(experiment))
        return [line for line in lines if "mean count" in line]

    assert not told(scale="silo")  # counts are divided by their mean
    (note,) = told()
    assert note.startswith("the mean count is large for train.lr = 0.05 (b: 300), ")
    assert "set train.lr = 0.0003," in note
    assert not told("train.lr=0.0003")
    assert told("train.lr=0.003")
    assert not told("train.lr=0.003", "train.momentum=0.0")
    assert not told("train.optimizer=adam")
    assert not told(task="regression")
    assert not told(PRIVATE[0], PRIVATE[2])


def test_a_column_whose_values_stand_for_several_rows_of_one_label_is_noted(tmp_path):
    label = RNG.permutation([0, 1] * 10)

    def told(of_row, *sets):
        rows = {
            name: [f"{v},{n // 3},{of_row(n)}" for n, v in enumerate(RNG.normal(size=60))] for name in "ab"
        }
        return [note for note in notes(tables(tmp_path, *sets, **rows)) if "in several rows" in note]

    (note,) = told(lambda n: label[n // 3])
    assert "(a: 'w': 20 values; b: 'w': 20 values)" in note
    assert told(lambda n: label[n // 3], "data.unit_column=w") == []
    assert told(lambda n: n % 2) == []


def test_labels_that_have_one_value_are_noted(tmp_path):
    values = RNG.uniform(1, 3, (30, 2))

    def told(header, ends, *sets):
        cells = {name: [f"{v},{w},{n % 2},{end}" for n, (v, w) in enumerate(values)] for name, end in ends}
        every = notes(tables(tmp_path, *sets, header=header, **cells))
        return [note for note in every if "learned" in note]

    sets = ["data.task=multilabel", "data.classes=['p','q']"]
    (note,) = told("v,w,p,q", [("a", 0), ("b", 0)], *sets)
    assert "(a: 'q'; b: 'q')" in note
    assert "'q' cannot be learned at any silo" in note
    (note,) = told("v,w,p,q", [("a", 0), ("b", "")], *sets)
    sets = ["data.task=survival", "data.label=w", "data.event=p", "data.horizons=[1, 2]"]
    (note,) = told("v,w,q,p", [("a", 0), ("b", 1)], *sets)
    assert "(a: 'p')" in note


def test_a_horizon_after_all_times_is_noted(tmp_path):
    rows = [f"{v},{time},{number % 2}" for number, (v, time) in enumerate(RNG.uniform(1, 9, (30, 2)))]
    sets = ["data.task=survival", "data.label=time", "data.event=e", "data.horizons=[4, 12, 24]"]
    experiment = tables(tmp_path, *sets, header="v,time,e", a=rows, b=["1.5,20,1", *rows])
    assert (
        [line for line in notes(experiment) if "horizon" in line]
        == [
            line
            for line in notes(experiment)
            if line.startswith("the horizon 12 lies after") and "a: 8" in line
        ]
        != []
    )
    (tmp_path / "a.csv").write_text("v,time,e\n" + "\n".join(["1.5,20,1", *rows]))
    (line,) = (line for line in notes(experiment) if "horizon" in line)
    assert "horizon 24" in line
    assert "no silo" in line


@pytest.mark.parametrize("more", [[], ["data.stream=true", "data.channels=1"]])
def test_pictures_of_several_sizes_are_shown_and_a_changed_shape_is_noted(tmp_path, more):
    """Widths of 16 to 32 px and heights of 16 to 35 px at a; squares at b; at c one size that is nearly square."""
    sides = {
        "a": lambda n: (16 + 8 * (n % 3), 16 + n),
        "b": lambda n: (20 + n, 20 + n),
        "c": lambda n: (22, 20),
    }
    for name, own in sides.items():
        for kind in ("cat", "dog"):
            (tmp_path / name / kind).mkdir(parents=True)
            for number in range(20):
                pixels = RNG.integers(0, 256, own(number)[::-1], np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / kind / f"{number}.png")
    sets = ["data.source=images", f"data.path={tmp_path}", "data.size=16", "model.name=convnet", *more]
    experiment = load_experiment("digits", sets)
    (note,) = (line for line in notes(experiment) if "changes the shape" in line)
    changed = np.mean([max(side) / min(side) > 1.1 for side in map(sides["a"], range(20))])
    assert f"(a: {changed:.0%} of the images, such as 34 x 16 px)" in note
    if not more:
        with temporary_store() as store:
            shown = {name: silo.inputs for name, silo in data_report(experiment, store).silos.items()}
        assert shown == {
            name: f"grey images of 16 x 16 px, 0..255, resized from {those} px"
            for name, those in {"a": "16 x 16 to 35 x 32", "b": "20 x 20 to 39 x 39", "c": "20 x 22"}.items()
        }


def test_silos_that_are_named_like_parts_of_one_set(tmp_path):
    (note,) = notes(tables(tmp_path, train=drawn(), Test=drawn()))
    assert "(Test, train)" in note
    assert "data.split_column" in note
    assert notes(tables(tmp_path, train=drawn(), Test=drawn(), north=drawn())) == []


def test_columns_that_together_give_the_label_are_in_the_report(tmp_path):
    kinds = RNG.permutation(60) % 3
    rows = [f"{RNG.normal()},{int(kind == 0)},{int(kind == 1)},{'xyz'[kind]}" for kind in kinds]
    experiment = tables(tmp_path, header="v,good,fair,label", a=rows, b=rows[::2])
    with temporary_store() as store:
        report = data_report(experiment, store)
    assert report.silos["a"].together == ("good", "fair")
    assert any("together" in line and "good, fair" in line for line in silo_lines(report))


def test_a_weight_of_a_label_that_no_silo_has_is_refused(tmp_path):
    experiment = tables(tmp_path, "data.class_weights={'7'=2.0}", a=drawn(), b=drawn())
    with pytest.raises(ConfigError, match="the label '7'; there are 0, 1"):
        notes(experiment)
    assert notes(tables(tmp_path, "data.class_weights={'1'=2.0}", a=drawn(), b=drawn())) == []


def test_an_empty_silo_can_be_left_out(tmp_path):
    experiment = tables(tmp_path, a=drawn(), b=drawn(), c=[])
    with pytest.raises(DataError, match="silo c .*data.silos_except"):
        notes(experiment)
    assert notes(tables(tmp_path, "data.silos_except=['c']", a=drawn(), b=drawn(), c=[])) == []


@pytest.mark.parametrize(
    ("task", "labels", "sets"),
    [
        ("regression", lambda v, unit: v * unit, ()),
        ("counts", lambda v, unit: v * unit, ()),
        ("survival", lambda v, unit: f"{(v + 1) * unit},{v % 2}", ("data.event=dead", "data.horizons=[9]")),
    ],
)
def test_labels_in_another_unit_at_a_silo_are_noted(tmp_path, task, labels, sets):
    def told(unit):
        rows = {
            name: [f"{v / 7},{v % 5},{labels(v % 20, by)}" for v in range(40)]
            for name, by in (("a", 1), ("b", unit))
        }
        header = "v,w,label,dead" if task == "survival" else "v,w,label"
        experiment = tables(tmp_path, f"data.task={task}", *sets, header=header, **rows)
        lines = data_notes(experiment, method_of(experiment.method), read_data_schema(experiment))
        return [line for line in lines if "units may differ" in line]

    assert not told(7)
    (note,) = told(365)
    assert note.startswith("labels of b are 365 times as large")
