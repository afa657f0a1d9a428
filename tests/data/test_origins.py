"""Private training refuses values that were learned from private rows, by their origin, whatever the source is."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fedtl.experiment.run as study_of_runs
from fedtl.data.origins import DECLARED, LEARNED, REASONS, Origin, Origins, refusals
from fedtl.data.registry import DATA
from fedtl.data.source import Part, Raw, Source
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment, read_experiment
from fedtl.experiment.guarantees import silo_guarantee
from fedtl.experiment.lint.findings import lint
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.simulation.shared_store import temporary_store
from tests.experiment.private_silos import bench_of, data_of, silo_of

PRIVATE = ["privacy.epsilon=3", "data.silos=[]", "data.limit=0", "rounds=2", "engine.name=serial"]
CLASSES = "data.classes=['0','1']"
SCALED = "scale of the inputs"


def arrays(folder, x, y=None):
    for name in ("a", "b"):
        np.savez(folder / f"{name}.npz", train_x=x, train_y=np.arange(len(x)) % 2 if y is None else y)
    return [*PRIVATE, "data.source=npz", f"data.path={folder}"]


def columns(folder):
    return [*arrays(folder, np.random.default_rng(0).normal(size=(60, 3))), "model.name=mlp", CLASSES]


def float_images(folder):
    return [*arrays(folder, np.random.default_rng(0).normal(size=(60, 8, 8)).astype(np.float32)), CLASSES]


def pixels(folder):
    return arrays(folder, np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))


def regression(folder):
    sets = arrays(
        folder, np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8), np.linspace(0, 9, 60)
    )
    return [*sets, "data.task=regression"]


def table(folder):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(50, 9, 60), "label": np.arange(60) % 2, "ward": ["x", "y"] * 30})
    frame.to_csv(folder / "a.csv", index=False)
    return [
        *PRIVATE,
        "data.source=table",
        f"data.path={folder}",
        "model.name=mlp",
        "data.columns=['age']",
        CLASSES,
    ]


def unscaled_table(folder):
    return [*table(folder), "data.scale=none"]


def split_table(folder):
    parts = {"part": ["train"] * 50 + ["test"] * 10}
    sets = unscaled_table(folder)
    pd.read_csv(folder / "a.csv").assign(**parts).to_csv(folder / "a.csv", index=False)
    return sets


def pictures(folder):
    folder, rng = folder / "rows", np.random.default_rng(0)
    for kind in ("0", "1"):
        (folder / "a" / kind).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(
                folder / "a" / kind / f"{number}.png"
            )
    return [*PRIVATE, "data.source=images", f"data.path={folder}", CLASSES]


LEARNS = [
    (columns, [], SCALED),
    (float_images, [], SCALED),
    (table, [], SCALED),
    (pixels, [], "list of classes"),
    (pixels, ["method.name=fedavg"], "list of classes"),
    (regression, [], "scale of the labels"),
    (pictures, [], "data.size and data.channels"),
    (pictures, ["data.size=8"], "data.size and data.channels"),
    (
        unscaled_table,
        ["data.domain_column=ward", "data.target_domain=y"],
        "data.target_domain",
    ),
    (split_table, ["data.split_column=part"], "data.split_column"),
]


@pytest.mark.parametrize(("make", "more", "says"), LEARNS)
def test_a_learned_value_is_refused_before_anything_trains(make, more, says, tmp_path):
    sets = [*make(tmp_path), *more]
    with temporary_store() as shelf:
        study = build(load_experiment("digits", sets), shelf, shelf)
        with pytest.raises(ConfigError, match=says) as caught:
            silo_guarantee(study, "a", tmp_path)
        assert "\n" not in str(caught.value)
    experiment = load_experiment("digits", sets)
    with pytest.raises(ConfigError, match=says):
        run(experiment, RunFolder.create(tmp_path / "run", experiment))
    assert not (tmp_path / "run" / "silos" / "a" / "ledger.sqlite").exists()
    found = lint(read_experiment("digits", sets))
    assert any(line.startswith("a: ") and says in line for line in found.unsound)
    assert found.holds == ()


def test_a_learned_value_is_refused_before_pretraining(tmp_path, monkeypatch):
    """Pretraining on public rows may take long."""
    monkeypatch.setattr(study_of_runs, "pretrain", lambda *_: pytest.fail("it was pretrained"))
    experiment = load_experiment("digits", [*columns(tmp_path), "model.pretrain_on=['b']"])
    with pytest.raises(ConfigError, match=SCALED):
        run(experiment, RunFolder.create(tmp_path / "run", experiment))


def constants(folder):
    path = folder / "constants.toml"
    path.write_text('["*"]\nmean = 0\nstd = 1\n[label]\nmean = 4\nstd = 3\n')
    return f"data.scale={path}"


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (columns, ["data.scale=none"]),
        (columns, ["data.scale=dp", "data.bounds={'*'=[-4,4]}"]),
        (columns, [constants]),
        (columns, [constants, "data.columns=['x','y','z']"]),
        (float_images, [constants]),
        (float_images, ["data.scale=dp", "data.bounds={'*'=[-4,4]}"]),
        (table, [constants]),
        (table, ["data.scale=none"]),
        (pixels, [CLASSES]),
        (pixels, [CLASSES, "data.scale=dp"]),
        (pixels, [CLASSES, "method.name=fedavg"]),
        (regression, [constants]),
        (regression, ["data.scale=none"]),
        (pictures, ["data.size=8", "data.channels=1"]),
    ],
)
def test_a_declared_or_released_value_is_not_refused(make, more, tmp_path):
    sets = [*make(tmp_path), *(one(tmp_path) if callable(one) else one for one in more)]
    sets = list({one.partition("=")[0]: one for one in sets}.values())
    with temporary_store() as shelf:
        study = build(load_experiment("digits", sets), shelf, shelf)
        assert silo_guarantee(study, "a", tmp_path).epsilon <= 3
    found = lint(read_experiment("digits", sets))
    assert found.unsound == ()
    assert any(line.startswith("preparation: ") for line in found.holds)


@pytest.mark.parametrize("key", [field.name for field in fields(Origins)])
def test_the_privacy_guarantee_refuses_each_learned_value(key, tmp_path):
    learned = replace(data_of(), origins=replace(DECLARED, **{key: Origin.LEARNED}))
    with pytest.raises(ConfigError, match="is refused: "):
        silo_of(bench_of(), tmp_path, data=learned)
    released = replace(data_of(), origins=replace(DECLARED, **{key: Origin.RELEASED}))
    assert silo_of(bench_of(), tmp_path, data=released).guarantee.epsilon > 0


def test_a_value_without_an_origin_counts_as_learned(tmp_path):
    assert len(list(refusals(LEARNED))) == len(REASONS) == len(fields(Origins))
    with pytest.raises(ConfigError, match="data.target_domain"):
        silo_of(bench_of(), tmp_path, data=replace(data_of(), origins=LEARNED))


def test_a_source_that_does_not_say_what_it_learns_counts_as_learning(monkeypatch, tmp_path):
    part = Part(np.zeros((40, 3)), np.arange(40) % 2)
    plugin = Source(lambda settings: ["a"], lambda settings, name: Raw(part), "", needs_path=False)
    monkeypatch.setitem(DATA.own, "plugin", plugin)
    sets = [*PRIVATE, "data.source=plugin", "data.scale=none", "model.name=mlp", CLASSES]
    with temporary_store() as shelf:
        origins = build(load_experiment("digits", sets), shelf, shelf).data("a").origins
    assert (origins.split, origins.shape, origins.columns) == (Origin.LEARNED,) * 3


def test_without_privacy_rows_are_prepared_as_before(tmp_path):
    sets = [one for one in columns(tmp_path) if not one.startswith("privacy")]
    with temporary_store() as shelf:
        study = build(load_experiment("digits", sets), shelf, shelf)
        data = study.data("a")
    assert data.origins.scale == data.origins.split == Origin.LEARNED
    assert not study.experiment.data.by_record
    assert data.train.x.mean(0).abs().max() < 1e-5


def test_lint_reports_rows_and_columns_that_train_nothing(tmp_path):
    y = np.arange(60) % 2
    y[:6] = 7
    sets = arrays(tmp_path, np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8), y)
    told = lint(read_experiment("digits", [*sets, CLASSES, "data.val=0.0", "data.test=0.0"])).doubtful
    assert "a: 6 of 60 " in " ".join(told)
    assert any("data.classes: " in line for line in told)
    (tmp_path / "table").mkdir()
    sets = [one for one in table(tmp_path / "table") if not one.startswith("data.columns")]
    told = lint(read_experiment("digits", [*sets, "data.scale=none"])).doubtful
    assert any(line.startswith("a: column ward ") for line in told)
