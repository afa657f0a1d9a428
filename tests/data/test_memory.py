"""Rows in memory are prepared as the same rows in files are: same parts, constants, labels and origins, to the bit."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch

from fedtl.data.labels import label_texts
from fedtl.data.memory import read, rows_in_memory
from fedtl.data.prepare import prepare_silo, read_silo, silo_classes, silo_names
from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import Given, run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.simulation.shared_store import temporary_store

RNG = np.random.default_rng(0)
X, Y = RNG.normal(5, 2, (60, 3)).astype(np.float32), np.arange(60) % 2


def frame(start=0):
    values = {
        "age": RNG.integers(30, 80, 40).astype(float),
        "sex": ["f", "m"] * 20,
        "label": np.arange(40) % 2,
    }
    table = pd.DataFrame(values)
    table.loc[start, "age"] = np.nan
    return table


def prepared(raw, settings):
    classes = silo_classes(raw, settings)
    return prepare_silo(raw, settings, "a", 0, classes, frozenset(classes))


def same(one, other):
    """Equal in every tensor, label, constant and origin."""
    assert one.inputs == other.inputs
    assert (one.data.classes, one.data.origins) == (other.data.classes, other.data.origins)
    assert torch.equal(one.evaluation_set.ids, other.evaluation_set.ids)
    for left, right in (
        (one.data.train, other.data.train),
        (one.data.val, other.data.val),
        (one.evaluation_set.test, other.evaluation_set.test),
    ):
        assert torch.equal(left.x, right.x)
        assert torch.equal(left.y, right.y)


ARRAYS = {
    "arrays": (X, Y),
    "tensors": (torch.tensor(X, requires_grad=True), torch.from_numpy(Y)),
    "lists": (X.tolist(), Y.tolist()),
    "frame and series": (pd.DataFrame(X), pd.Series(Y)),
    "texts and numbers": (X, pd.Series(["no", 1] * 30)),
    "truth values": (pd.DataFrame({"u": X[:, 0], "v": X[:, 1] > 5}), Y),
    "parts": {"train_x": X, "train_y": Y, "test_x": X[:9] + 1, "test_y": Y[:9]},
    "pixels": (RNG.integers(0, 256, (60, 8, 8), dtype=np.uint8), Y),
    "regression": (X, X.sum(1)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_prepared_as_an_npz_file_is(kind, tmp_path):
    rows, task = ARRAYS[kind], "regression" if kind == "regression" else "classification"
    settings, raws = rows_in_memory({"a": rows}, DataSettings(task=task))
    assert (settings.source, settings.silos, silo_names(settings)) == ("memory", ["a"], ["a"])
    arrays = rows if isinstance(rows, dict) else dict(zip(("train_x", "train_y"), rows, strict=True))
    arrays = {
        key: v.detach().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for key, v in arrays.items()
    }
    arrays = {key: v.astype(str) if v.dtype == object else v for key, v in arrays.items()}
    if kind == "truth values":
        arrays |= {
            "train_x": np.stack([X[:, 0], X[:, 1] > 5], 1).astype(np.float64),
            "columns": np.array(["u", "v"]),
        }
    if kind == "lists":
        arrays["train_x"] = np.array(X.tolist())
    np.savez(tmp_path / "a.npz", **arrays)
    file = DataSettings(source="npz", path=str(tmp_path), task=task)
    same(prepared(raws["a"], settings), prepared(read_silo(file, "a"), file))


@pytest.mark.parametrize("by_record", [False, True])
@pytest.mark.parametrize("domain", [{}, {"domain_column": "scanner", "target_domain": "new"}])
def test_a_frame_is_prepared_as_a_csv_file_is(by_record, domain, tmp_path):
    more = {"categories": {"sex": ["f", "m"]}, "by_record": by_record, "classes": ["0", "1"], **domain}
    table = frame().assign(scanner=["old", "old", "new"] * 13 + ["old"], site="x")
    table = table if domain else table.drop(columns="scanner")
    table.drop(columns="site").to_csv(tmp_path / "a.csv", index=False)
    settings, raws = rows_in_memory({"a": table.drop(columns="site")}, DataSettings(**more))
    file = DataSettings(source="table", path=str(tmp_path), **more)
    assert raws["a"].columns == ("age", "sex=f", "sex=m")
    same(prepared(raws["a"], settings), prepared(read_silo(file, "a"), file))


def test_columns_of_a_frame_keep_their_names():
    _, raws = rows_in_memory({"a": (pd.DataFrame(X, columns=["u", "v", "w"]), Y)}, DataSettings())
    assert raws["a"].columns == ("u", "v", "w")
    chosen = DataSettings(columns=["w", "u", "v"])
    _, raws = rows_in_memory({"a": (pd.DataFrame(X, columns=["u", "v", "w"]), Y)}, chosen)
    assert np.array_equal(raws["a"].train.x, X[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        ({}, ConfigError, "no silo"),
        ({"a": X}, DataError, "of type ndarray"),
        ({"a": (X, Y[:5])}, DataError, r"train_y is \(5,\)"),
        ({"a": (X * np.nan, Y)}, DataError, "column 0 is nan"),
        ({"a": (X, Y + 0.5)}, DataError, "label 0.5"),
        ({"a": {"train_x": X}}, DataError, "train_y"),
        ({"a": (X, ["no", None] * 30)}, DataError, "30 of 60"),
        ({"a": (frame(), Y[:40])}, DataError, "inputs are of type"),
        ({"a": frame()}, DataError, "data.categories.sex"),
        ({"b": (X, Y)}, ConfigError, "silo 'a'"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(rows, error, says):
    chosen = DataSettings(silos=["a"]) if "b" in rows else DataSettings()
    with pytest.raises(error, match=says) as caught:
        rows_in_memory(rows, chosen)
    assert "\n" not in str(caught.value)


def test_settings_alone_cannot_read_rows_from_memory():
    with pytest.raises(DataError, match='data.source = "memory"'):
        read(DataSettings(source="memory", silos=["a"]), "a")
    sets = ["data.source=memory", "data.silos=['a','b']", "data.limit=0"]
    with pytest.raises(DataError, match="silo a"), temporary_store() as store:
        build(load_experiment("digits", sets), store, store)


def experiment(*sets):
    return load_experiment(
        "digits", ["data.silos=[]", "data.limit=0", "model.name=mlp", "rounds=2", "engine.name=serial", *sets]
    )


@pytest.mark.slow
def test_a_run_gives_the_numbers_of_the_same_run_on_files(tmp_path):
    silos = {name: (X + shift, Y) for name, shift in (("a", 0), ("b", 1))}
    for name, (x, y) in silos.items():
        np.savez(tmp_path / f"{name}.npz", train_x=x, train_y=y)
    on_files = experiment("data.source=npz", f"data.path={tmp_path}")
    settings, raws = rows_in_memory(silos, experiment().data)
    in_memory = experiment().model_copy(update={"data": settings})
    with temporary_store() as store:
        for name, raw in raws.items():
            store.get_or_make(f"{name}.raw", lambda raw=raw: raw)
        found = run(in_memory, RunFolder.create(tmp_path / "memory", in_memory), given=Given(store))
    expected = run(on_files, RunFolder.create(tmp_path / "files", on_files))
    assert found.silos == expected.silos
    assert found.mean == expected.mean


@pytest.mark.parametrize(
    ("rows", "sets", "learned"),
    [
        ((X, Y), ["data.classes=['0','1']"], {"scale"}),
        ((X, Y), ["data.scale=none"], {"classes"}),
        ((X, Y), ["data.scale=none", "data.classes=['0','1']"], set()),
        (
            frame().assign(scanner=["old", "new"] * 20),
            ["data.scale=none", "data.classes=['0','1']", "data.columns=['age']", "data.domain_column=scanner", "data.target_domain=new"],
            {"split"},
        ),
    ],
)  # fmt: skip
def test_under_privacy_rows_in_memory_have_the_origins_of_rows_in_files(rows, sets, learned):
    chosen = experiment("privacy.epsilon=3", "data.source=memory", *sets)
    settings, raws = rows_in_memory({"a": rows}, chosen.data)
    assert settings.by_record
    origins = prepared(raws["a"], settings).data.origins
    assert {field.name for field in fields(origins) if getattr(origins, field.name) == "learned"} == learned


@pytest.mark.parametrize("kind", [list, lambda y: np.array(y, object), lambda y: pd.Series(y, dtype=object)])
def test_one_odd_label_does_not_change_how_the_others_are_read(kind):
    settings = DataSettings(silos=["a"], classes=["0", "1"]).model_copy(update={"by_record": True})
    y = [float(one) for one in Y]
    labels = [
        label_texts(rows_in_memory({"a": (X, kind(one))}, settings)[1]["a"].train.y)
        for one in (y, [*y[:-1], "b"])
    ]
    assert labels[0][:-1] == labels[1][:-1] == [str(one) for one in Y[:-1]]


def test_a_list_of_images_of_several_types_is_refused():
    images = list(np.zeros((8, 6, 6), np.uint8))
    images[3] = images[3].astype(float)
    with pytest.raises(DataError, match="float64 and uint8"):
        rows_in_memory({"a": (images, [0, 1] * 4)}, DataSettings(silos=["a"]))
