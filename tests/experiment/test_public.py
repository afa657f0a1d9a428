"""Inputs that are declared public: where they come from, who reads them, and that their labels are never read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedtl.data.registry import DATA
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.public_inputs import public_inputs
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.server_step import server_step
from fedtl.experiment.study import build
from fedtl.simulation.shared_store import temporary_store
from tests.experiment.runs import do, numbers, same, small, tensors

FEDDF = ("method.name=feddf", "method.steps=3")
PUBLIC = 'data.public=["faint"]'
REFUSED = {
    "method.name=feddf": "data.public",
    'data.public=["digits:x"]': "must be the name of a silo",
    'data.public=["inputs:/nowhere"]': "/nowhere",
    'data.public=["noise:0"]': "'noise:0'",
    'data.public=["noise:many"]': "'noise:many'",
    'data.public=["faint"] data.late=["faint"]': "data.late",
    'data.public=["faint"] data.silos=["faint","plain"]': "data.silos",
    'data.public=["faint"] model.pretrain_on=["faint"]': "model.pretrain_on",
    'data.public=["faint"] data.unlabelled=["faint"]': "data.unlabelled",
    'data.public=["faint","faint"]': "data.public lists",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_is_refused(overrides):
    with pytest.raises(ConfigError) as caught:
        load_experiment("digits", overrides.split())
    assert REFUSED[overrides] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_public_silo_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="data.public"):
        read_data_schema(small('data.public=["fain"]'))


def inputs_of(*overrides):
    experiment = small(*overrides)
    schema = read_data_schema(experiment)
    return public_inputs(experiment, schema), schema


def test_a_public_silo_gives_its_inputs_and_does_not_train():
    x, schema = inputs_of(PUBLIC)
    raw = DATA["digits"].read(small().data, "faint").train.x
    assert x.shape == (40, 1, 8, 8)
    assert x.dtype == torch.uint8
    stored = {image.tobytes() for image in raw}
    assert all(image.tobytes() in stored for image in x[:, 0].numpy())
    assert "faint" not in schema.silos
    everything, _ = inputs_of(PUBLIC, "data.limit=0")
    assert np.array_equal(everything[:, 0].numpy(), raw)


def test_several_entries_are_put_together(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (7, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    both, _ = inputs_of(f'data.public=["inputs:{tmp_path}/x.npy","noise:5"]')
    assert both.shape == (12, 1, 8, 8)
    np.testing.assert_allclose(both[:7, 0].numpy(), x / 127.5 - 1, atol=1e-6)
    assert both[7:].abs().max() <= 1
    assert both[7:].std() == pytest.approx(3**-0.5, abs=0.05)  # uniform in -1..1
    only, _ = inputs_of(f'data.public=["inputs:{tmp_path}/x.npy"]')
    assert torch.equal(only[:, 0], torch.from_numpy(x))  # pixels stay pixels


def test_inputs_of_another_shape_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 9, 9), np.uint8))
    with pytest.raises(DataError, match="data.public"):
        inputs_of(f'data.public=["inputs:{tmp_path}/x.npy"]')


def test_columns_of_a_table_are_scaled_by_their_own_constants(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(5, 3, (30, 2))
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(
            "u,v,label\n" + "".join(f"{u},{v},{i % 2}\n" for i, (u, v) in enumerate(rows))
        )
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "x.csv").write_text("u,v\n" + "".join(f"{u},{v}\n" for u, v in rows * 10))
    sets = ["data.source=table", f"data.path={tmp_path}", "model.name=mlp"]
    experiment = load_experiment("digits", [*sets, f'data.public=["inputs:{tmp_path}/open/x.csv"]'])
    x = public_inputs(experiment, read_data_schema(experiment))
    np.testing.assert_allclose(x, (rows - rows.mean(0)) / rows.std(0), atol=1e-5)


def notes_of(*overrides):
    with temporary_store() as store:
        return build(small(*overrides), store, store).notes


def test_the_notes_say_who_reads_the_inputs():
    (line,) = [note for note in notes_of(*FEDDF, PUBLIC) if note.startswith("data.public")]
    assert "40 inputs of faint" in line
    assert "by the server" in line
    (line,) = [note for note in notes_of(PUBLIC) if note.startswith("data.public")]
    assert "labels are never read" in line


@pytest.mark.parametrize("override", ["method.cut=1", 'train.roles=["head"]'])
def test_a_server_that_cannot_run_the_models_is_refused(override):
    with pytest.raises(ConfigError, match="stays at the silo"):
        notes_of(*FEDDF, PUBLIC, override)


def test_the_servers_net_is_no_silos_net():
    with temporary_store() as store:
        study = build(small(*FEDDF, PUBLIC), store, store)
        step = server_step(study)
        mine, theirs = step.public.net.body, study.trainer.net(10).body
    assert not {id(one) for one in mine.parameters()} & {id(one) for one in theirs.parameters()}


def flip_labels(monkeypatch):
    source = DATA["digits"]

    def read(given, name):
        raw = source.read(given, name)
        return replace(raw, train=replace(raw.train, y=9 - raw.train.y)) if name == "faint" else raw

    monkeypatch.setitem(DATA.own, "digits", replace(source, read=read))


@pytest.mark.slow
def test_flipping_all_labels_of_public_rows_changes_no_bit_and_a_resumed_run_neither(tmp_path, monkeypatch):
    experiment = small(*FEDDF, PUBLIC)
    first = do(tmp_path / "a", experiment)
    assert "faint" not in first["silos"]
    plain = do(tmp_path / "plain", small("method.name=fedavg", PUBLIC))
    assert first["mean"] != plain["mean"]
    flip_labels(monkeypatch)

    class Killed(Exception):
        pass

    def stop(finished):
        if finished.after.round == 1:
            raise Killed

    folder = RunFolder.create(tmp_path / "b", experiment)
    with pytest.raises(Killed):
        run(experiment, folder, progress=stop)
    run(folder.experiment(), folder)
    second = folder.read_json("result.json")
    assert numbers(first) == numbers(second)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
