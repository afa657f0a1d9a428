"""Streamed images: the bits of a run in memory, bounded memory, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedtl.data import streamed
from fedtl.data.prepare import prepare_silo, read_silo
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.known_tasks import check_every_task
from fedtl.experiment.config.load import load_experiment, read_experiment
from fedtl.experiment.lint.findings import lint
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.privacy.rows import Part as Rows
from fedtl.privacy.rows import row_set
from tests.experiments import ROUNDS_ONLY

SETS = ["data.source=images", "data.size=8", "data.channels=3", "model.settings.widths=[4,4,4]"]
FAST = ["rounds=1", "engine.name=serial", "train.lr=0.01", "data.silos=[]", *ROUNDS_ONLY]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two silos of pictures of several sizes, some grey and some in colours."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for silo in "ab":
        for label, low in (("dark", 0), ("light", 120)):
            (folder / silo / label).mkdir(parents=True)
            for number in range(12):
                sides = (9, 11, 3) if number % 3 else (8, 8)
                pixels = rng.integers(low, low + 120, sides).astype(np.uint8)
                Image.fromarray(pixels).save(folder / silo / label / f"{number}.png")
    return folder


def experiment(folder, *sets):
    return load_experiment("digits", [*SETS, *FAST, f"data.path={folder}", *sets])


def finished(folder, out, *sets):
    plan = experiment(folder, *sets)
    done = RunFolder.create(out, plan)
    run(plan, done)
    result = json.loads((out / "result.json").read_text())
    # The fingerprint of streamed images is that of their names and sizes.
    return done, {key: value for key, value in result.items() if key not in ("seconds", "fingerprints")}


AUGMENTED = ['train.augment=[{name="flip"}]']
PRIVATE = [
    "privacy.epsilon=8",
    "privacy.noise=reproducible",
    "privacy.tuning=public",
    'data.classes=["dark","light"]',
]


@pytest.mark.slow
@pytest.mark.parametrize("sets", [AUGMENTED, PRIVATE], ids=["plain", "private"])
def test_a_streamed_run_has_the_bits_of_one_in_memory(pictures, tmp_path, sets):
    plain, wanted = finished(pictures, tmp_path / "plain", *sets)
    done, found = finished(pictures, tmp_path / "streamed", *sets, "data.stream=true")
    assert found == wanted
    for name in ("shared.safetensors", "silos/a/local.safetensors", "silos/b/test.safetensors"):
        one, other = plain.tensors(name), done.tensors(name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_prepared_rows_are_read_when_they_are_asked_for(pictures):
    plan = experiment(pictures)
    rows = {}
    for stream in (False, True):
        settings = plan.data.model_copy(update={"stream": stream})
        raw = read_silo(settings, "a")
        rows[stream] = prepare_silo(
            raw, settings, "a", 0, ("dark", "light"), frozenset(["dark", "light"])
        ).data
    plain, lazy = (rows[stream].train for stream in (False, True))
    assert isinstance(lazy.x, streamed.StreamedInputs)
    assert (lazy.x.shape, lazy.x.dtype, len(lazy)) == (plain.x.shape, plain.x.dtype, len(plain))
    some = torch.tensor([5, 0, 5])
    assert torch.equal(lazy.x[some], plain.x[some])
    assert torch.equal(torch.cat(list(lazy.take(some).x.split(2))), plain.x[some])
    assert torch.equal(lazy.take(plain.y == 1).x[:], plain.x[plain.y == 1])
    assert lazy.x[:0].shape == plain.x[:0].shape
    hashes = [row_set([Rows(x, plain.y.numpy())], b"k") for x in (lazy.x, plain.x.numpy())]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_lint_finds_the_same_in_streamed_images(pictures, tmp_path):
    shutil.copytree(pictures / "a", tmp_path / "a")
    shutil.copytree(pictures / "a", tmp_path / "b")
    sets = [*SETS, *FAST, *PRIVATE, f"data.path={tmp_path}"]
    plain, lazy = (
        lint(read_experiment("digits", [*sets, f"data.stream={stream}"])) for stream in ("false", "true")
    )
    assert lazy == plain
    assert any("are also in a" in line for line in lazy.doubtful)


def test_a_file_of_another_depth_is_named(pictures, tmp_path):
    for label in ("dark", "light"):
        (tmp_path / "a" / label).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((8, 8), 9, np.uint8)).save(tmp_path / "a" / label / f"{number}.png")
    Image.fromarray(np.full((8, 8), 900, np.uint16)).save(tmp_path / "a" / "light" / "9.png")
    plan = experiment(tmp_path, "data.stream=true")
    with pytest.raises(DataError, match="9.png"):
        read_silo(plan.data, "a").train.x[:]


def test_a_file_that_changes_is_not_read(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "copy")
    x = read_silo(experiment(tmp_path / "copy", "data.stream=true").data, "a").train.x
    wanted = x[3:5]
    np.testing.assert_array_equal(x[3:5], wanted)
    with x.paths[4].open("ab") as file:
        file.write(b" ")
    with pytest.raises(DataError, match="changed after"):
        x[3:5]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["data.late=['a']"], "data.late"),
        (["data.unlabelled=['a']"], "data.unlabelled"),
        (["engine.stack=2"], "engine.stack = 2"),
    ],
)
def test_what_needs_all_rows_is_refused(pictures, sets, words):
    with pytest.raises(ConfigError, match=words):
        experiment(pictures, "data.stream=true", *sets)


def test_commands_that_need_all_rows_say_so(pictures):
    with pytest.raises(ConfigError, match="fedtl audit needs"):
        check_every_task(experiment(pictures, "data.stream=true"), "fedtl audit")


READ = """
import sys
from fedtl.data.prepare import read_silo, prepare_silo
from fedtl.experiment.config.load import load_experiment
stream, path = sys.argv[1:]
def peak():  # of this process; getrusage counts the one that started it too
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
s = ["data.source=images", "data.size=256", "data.channels=3", f"data.path={path}", "data.silos=[]", f"data.stream={stream}"]
settings = load_experiment("digits", s).data
def read(silo):
    data = prepare_silo(read_silo(settings, silo), settings, silo, 0, ("x", "y"), frozenset("xy")).data
    return sum(int(part.sum()) for part in data.train.x.split(32))
read("few")  # imports what reading needs
small = peak()
total = read("many")
print(peak() - small, total)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux")
def test_memory_does_not_grow_with_the_set(tmp_path):
    """600 pictures of 256 x 256 px in colours take 118 MB."""
    rng = np.random.default_rng(0)
    for label in "xy":
        for silo, count in (("few", 10), ("many", 300)):
            (folder := tmp_path / silo / label).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{number}.png")
    used = {}
    for stream in ("false", "true"):
        command = [sys.executable, "-c", READ, stream, str(tmp_path)]
        used[stream] = list(
            map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        )
    assert used["true"][1] == used["false"][1]
    assert used["false"][0] > 118_000, used  # KiB
    assert used["true"][0] < 60_000, used
