"""``fedtl embed``: the numbers are the body's, other programs can read them, and mistakes are one line."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from fedtl.experiment.embed import body_hash
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run_folder import RunFolder
from tests.commands import fedtl
from tests.experiments import ROUNDS_ONLY


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("new") / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8))
    return path


def embed(run, images, out, *more):
    return fedtl("embed", run, "--silo", "faint", "--input", images, "--out", out, *more)


def test_an_npz_has_the_bodys_features_to_the_bit(finished, images, tmp_path):
    run, out = finished[0], tmp_path / "deep" / "e.npz"
    done = embed(run, images, out, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    with np.load(out, allow_pickle=False) as made:
        vectors, ids = made["embedding"], made["id"]
        about = {name: str(made[name]) for name in ("silo", "model", "body_sha256")}
    assert (said["rows"], said["features"], said["silo"]) == (300, 64, "faint")
    assert about == {name: said[name] for name in about}
    assert vectors.dtype == np.float32
    assert ids.tolist() == list(range(300))
    model = SiloModel(RunFolder(run), "faint")
    net, x = model.net(), torch.from_numpy(np.load(images))[:, None]
    with torch.no_grad():
        for first in (0, 256):
            rows = (
                x[first : first + 256].float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
            )
            assert np.array_equal(vectors[first : first + 256], net.body(rows).numpy())
    # The head's layer on them, in numpy, gives the scores of fedtl predict.
    scores = vectors @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()
    np.testing.assert_allclose(scores, model.scores(np.load(images)), atol=1e-4)
    state = model.final.main.state
    assert about["body_sha256"] == body_hash(state)
    other = {**state, "head.bias": state["head.bias"] + 1}
    assert body_hash(other) == body_hash(state)
    name = next(name for name in state if name.endswith("running_mean"))
    assert body_hash({**state, name: state[name] + 1}) != body_hash(state)


def test_pandas_reads_a_parquet_file_with_what_it_is(finished, images, tmp_path):
    pytest.importorskip("pyarrow")
    done = embed(finished[0], images, tmp_path / "e.parquet")
    assert done.returncode == 0, done.stderr
    assert "wrote 300 rows of 64 features" in done.stderr
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert list(table.columns) == ["id", *(f"e{number}" for number in range(64))]
    assert table.attrs["silo"] == "faint"
    assert len(table.attrs["body_sha256"]) == 64
    embed(finished[0], images, tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as made:
        assert np.array_equal(table.iloc[:, 1:].to_numpy(), made["embedding"])


@pytest.mark.parametrize(
    ("out", "input", "words"),
    [("e.csv", "", ".npz"), ("e.npz", "nowhere.npy", "nowhere.npy"), ("e.npz", "wrong.npy", "(1, 9, 9)")],
)
def test_mistakes_are_one_line_and_write_nothing(finished, images, tmp_path, out, input, words):
    np.save(tmp_path / "wrong.npy", np.zeros((2, 9, 9), np.uint8))
    done = embed(finished[0], tmp_path / input if input else images, tmp_path / out)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / out).exists()


@pytest.mark.slow
def test_an_export_gives_the_same_features_as_its_run(finished, images, tmp_path):
    assert fedtl("export", finished[0], "--silo", "faint", "--out", tmp_path / "model").returncode == 0
    for number, source in enumerate(([finished[0], "--silo", "faint"], [tmp_path / "model"])):
        done = fedtl("embed", *source, "--input", images, "--out", tmp_path / f"{number}.npz")
        assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "0.npz") as one, np.load(tmp_path / "1.npz") as other:
        assert np.array_equal(one["embedding"], other["embedding"])
        assert str(one["body_sha256"]) == str(other["body_sha256"])
    done = fedtl(
        "embed", tmp_path / "model", "--silo", "faint", "--input", images, "--out", tmp_path / "e.npz"
    )
    assert (done.returncode, "remove --silo" in done.stderr) == (2, True)
    done = fedtl("embed", finished[0], "--input", images, "--out", tmp_path / "e.npz")
    assert (done.returncode, "name the silo" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_table_of_an_export_is_read_as_it_was_trained_on(tmp_path):
    rng, rows = np.random.default_rng(0), 60
    for silo in ("a", "b"):
        x = rng.normal(5, 3, (rows, 2))
        frame = pd.DataFrame({"u": x[:, 0], "v": x[:, 1], "label": (x.sum(1) > 10).astype(int)})
        frame.to_csv(tmp_path / f"{silo}.csv", index=False, sep=";", decimal=",")
    (tmp_path / "new").mkdir()
    frame.drop(columns="label")[["v", "u"]].to_csv(
        tmp_path / "new" / "n.csv", index=False, sep=";", decimal=","
    )
    settings = {"source": "table", "path": ".", "delimiter": ";", "decimal": ","}
    lines = "\n".join(f'{key} = "{value}"' for key, value in settings.items())
    silos = 'silos = ["a", "b"]'
    (tmp_path / "e.toml").write_text(
        f'rounds = 1\n[data]\n{lines}\n{silos}\n[model]\nname = "mlp"\n[method]\nname = "fedavg"\n'
    )
    sets = [word for each in ROUNDS_ONLY for word in ("--set", each)]
    assert fedtl("run", tmp_path / "e.toml", "--out", tmp_path / "run", *sets).returncode == 0
    assert fedtl("export", tmp_path / "run", "--silo", "a", "--out", tmp_path / "model").returncode == 0
    for number, source in enumerate(([tmp_path / "run", "--silo", "a"], [tmp_path / "model"])):
        done = fedtl(
            "embed", *source, "--input", tmp_path / "new" / "n.csv", "--out", tmp_path / f"{number}.npz"
        )
        assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "0.npz") as one, np.load(tmp_path / "1.npz") as other:
        assert np.array_equal(one["embedding"], other["embedding"])
