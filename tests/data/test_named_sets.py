"""Sets of torchvision and MedMNIST, from files in their publishers' formats that the tests write; nothing is downloaded."""

import bz2
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from fedtl.data.prepare import read_silo, silo_names
from fedtl.data.settings import DataSettings, DealSettings
from fedtl.data.torchvision_sets import SETS
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.integers(0, 256, (30, 28, 28), np.uint8), RNG.integers(0, 256, (10, 28, 28), np.uint8)


def write_idx(path, name, x, y):
    """The format of LeCun's MNIST files: a magic number, the sizes, and the bytes."""
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *x.shape) + x.tobytes())
    (path / f"{name}-labels-idx1-ubyte").write_bytes(
        struct.pack(">2I", 0x801, len(y)) + y.astype(np.uint8).tobytes()
    )


def mnist(path, kind="MNIST"):
    write_idx(path / kind / "raw", "train", TRAIN, np.arange(30) % 10)
    write_idx(path / kind / "raw", "t10k", TEST, np.arange(10))


def usps(path):
    """The format of LIBSVM, compressed: the label from 1, and the pixels from -1 to 1."""
    for name, count in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        rows = (" ".join(f"{n + 1}:{2 * n / 255 - 1:.6f}" for n in range(256)) for _ in range(count))
        text = "".join(f"{number % 10 + 1} {row}\n" for number, row in enumerate(rows))
        (path / name).write_bytes(bz2.compress(text.encode()))


def settings(path, *sets, **changes):
    return DataSettings(source="torchvision", path=str(path), sets=list(sets), **changes)


def test_sets_are_silos_with_their_own_test_rows(tmp_path):
    mnist(tmp_path)
    usps(tmp_path)
    chosen = settings(tmp_path, "usps", "mnist", size=16)
    assert silo_names(chosen) == ["usps", "mnist"]
    raw = read_silo(chosen, "mnist")
    assert np.array_equal(raw.train.x, TRAIN)
    assert np.array_equal(raw.test.x, TEST)
    assert raw.train.y.tolist() == (np.arange(30) % 10).tolist()
    other = read_silo(chosen, "usps")
    assert other.train.x.shape == (20, 16, 16)
    assert np.abs(other.train.x[0].ravel().astype(int) - np.arange(256)).max() <= 1
    assert other.test.y.tolist() == list(range(10))


def test_a_set_is_dealt_and_keeps_the_names_of_its_classes(tmp_path):
    mnist(tmp_path, "FashionMNIST")
    chosen = settings(tmp_path, "fashion_mnist", deal=DealSettings(silos=2, minimum=4, by="iid"))
    silos = [read_silo(chosen, name) for name in silo_names(chosen)]
    assert [len(silo.train.y) for silo in silos] == [15, 15]
    assert "Ankle boot" in {*silos[0].train.y.tolist(), *silos[1].train.y.tolist()}
    assert sorted(row.tobytes() for silo in silos for row in silo.train.x) == sorted(map(bytes, TRAIN))


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_missing_file_is_named_with_its_place(name, tmp_path):
    with pytest.raises(DataError) as error:
        read_silo(settings(tmp_path, name), name)
    assert f"no file {tmp_path / SETS[name].files[0]}" in str(error.value)
    assert "data.download = true" in str(error.value)


class Opened:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_pickle_that_is_not_the_publishers_is_never_opened(name, tmp_path):
    for file in SETS[name].files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(pickle.dumps(Opened(tmp_path / "opened")))
    with pytest.raises(DataError, match="replace them"):
        read_silo(settings(tmp_path, name), name)
    assert not (tmp_path / "opened").exists()
    pickle.loads((tmp_path / file).read_bytes())  # the file would do it
    assert (tmp_path / "opened").exists()


def test_a_damaged_file_is_one_line(tmp_path):
    mnist(tmp_path)
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match="cannot be read") as error:
        read_silo(settings(tmp_path, "mnist"), "mnist")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["data.source=torchvision"], "data.sets is empty"),
        (["data.source=torchvision", "data.sets=['minst']"], "did you mean 'mnist'"),
        (["data.source=npz", "data.sets=['mnist']"], 'source "torchvision"'),
    ],
)
def test_settings_that_do_not_fit_are_refused(sets, says, tmp_path):
    with pytest.raises(ConfigError) as error:
        load_experiment("digits", [*sets, f"data.path={tmp_path}", "data.silos=[]"])
    assert says in str(error.value)


def test_a_file_of_medmnist_is_read_as_it_is(tmp_path):
    arrays = {}
    for part, count in (("train", 30), ("val", 6), ("test", 9)):
        arrays[f"{part}_images"] = RNG.integers(0, 256, (count, 28, 28, 3), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 3).astype(np.uint8)[:, None]
    np.savez(tmp_path / "bloodmnist.npz", **arrays)
    chosen = DataSettings(source="npz", path=str(tmp_path / "bloodmnist.npz"))
    with pytest.raises(DataError, match="data.deal"):
        silo_names(chosen)
    raw = read_silo(DataSettings(source="npz", path=str(tmp_path)), "bloodmnist")
    assert np.array_equal(raw.val.x, arrays["val_images"])
    assert raw.train.y.tolist() == (np.arange(30) % 3).tolist()
    dealt = chosen.model_copy(update={"deal": DealSettings(silos=3, minimum=5, by="iid")})
    silos = [read_silo(dealt, name) for name in silo_names(dealt)]
    assert [[len(part.y) for part in (one.train, one.val, one.test)] for one in silos] == [[10, 2, 3]] * 3


def test_one_array_names_the_silo_of_each_row(tmp_path):
    x, where = RNG.normal(size=(40, 2)), np.array(["north", "south"])[np.arange(40) // 25]
    np.savez(tmp_path / "all.npz", train_x=x, train_y=np.arange(40) % 2, train_hospital=where)
    chosen = DataSettings(source="npz", path=str(tmp_path), silo_column="hospital")
    assert silo_names(chosen) == ["north", "south"]
    assert np.array_equal(read_silo(chosen, "south").train.x, x[25:])
    with pytest.raises(DataError, match="no array train_clinic"):
        silo_names(chosen.model_copy(update={"silo_column": "clinic"}))
