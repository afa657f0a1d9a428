"""Updates that come before their turn wait in files, with the same bits; a disk without room, or a damaged file, ends nothing."""

import gc
import logging
import stat
import weakref
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from fedtl._util.files import lock_folder
from fedtl.deployment.coordinator import early_files
from fedtl.deployment.coordinator.early_files import EarlyFiles
from fedtl.deployment.coordinator.watch import EarlyWatch
from fedtl.errors import NotEnoughSilos
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Update
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role

NAMES = [f"site{number:02d}" for number in range(8)]
ROLES = {"body.w": Role.BODY, "body.half": Role.BODY, "body.a": Role.BODY}


class Kept(dict):
    """A dictionary that a weak reference can follow."""


class Backwards:
    """Silos that reply in the order opposite to their names. ``alive``: the updates that are in memory; ``seen``: the most files at a time."""

    def __init__(self, folder):
        self.folder, self.alive, self.most, self.modes = folder, [], 0, set()

    def silos(self):
        return NAMES

    def ask(self, task, silos):
        for name in reversed(silos):
            generator = torch.Generator().manual_seed(int(name[4:]) + 100 * task.round)
            delta = {n: torch.randn(t.shape, generator=generator).to(t.dtype) for n, t in task.shared.items()}
            update = Update(name, task.round, Kept(delta), 1.0 + int(name[4:]), {"loss": 0.1})
            self.alive.append(weakref.ref(update.delta))
            yield update
            del update, delta
            gc.collect()
            self.most = max(self.most, sum(one() is not None for one in self.alive))
            self.modes |= {stat.S_IMODE(path.stat().st_mode) for path in self.folder.parent.rglob(".early*")}
            self.modes |= {stat.S_IMODE(path.stat().st_mode) for path in self.folder.glob("*")}


def rounds(folder, early, **changes):
    """Tensors with names that are not in alphabetical order, of two types, one without values and one of a value."""
    shared = {"body.w": torch.ones(5, 3), "body.half": torch.ones((), dtype=torch.bfloat16)}
    state = ServerState(0, {**shared, "body.a": torch.ones(0, 2)})
    plan = replace(FederationConfig("s", 0, 2, ServerStep()), **changes)
    silos = Backwards(folder)
    return silos, list(run_rounds(silos, plan, state, ROLES, early))


def same(these, those):
    for a, b in zip(these, those, strict=True):
        assert all(torch.equal(a.after.shared[name], b.after.shared[name]) for name in ROLES)
        assert (a.replies, a.left_out) == (b.replies, b.left_out)


def test_one_update_is_in_memory_and_the_others_in_private_files(tmp_path, caplog):
    folder = tmp_path / "study" / ".early"
    folder.mkdir(parents=True)
    (folder / "7.safetensors").write_bytes(b"left by a process that was killed")
    in_memory, usual = rounds(folder, None)
    on_disk, mended = rounds(folder, EarlyFiles(folder))
    same(mended, usual)
    assert (in_memory.most, on_disk.most) == (len(NAMES) - 1, 0)
    assert on_disk.modes == {0o700, 0o600}
    assert not folder.exists()
    assert not caplog.records


def test_a_round_that_ends_early_leaves_no_file(tmp_path):
    folder = tmp_path / ".early"
    with pytest.raises(NotEnoughSilos):
        rounds(folder, EarlyFiles(folder), minimum_silos=9)
    assert not folder.exists()


def test_what_a_killed_serverapp_left_is_removed_also_of_a_stopped_study(tmp_path):
    study = tmp_path / "studies" / "s"
    study.mkdir(parents=True)
    EarlyFiles(study / ".early").keep(Update("a", 1, {"body.w": torch.ones(2)}, 1.0))
    with lock_folder(study):  # as its ServerApp
        EarlyWatch(tmp_path)()
        assert (study / ".early" / "0.safetensors").exists()
    EarlyWatch(tmp_path)()
    assert [path.name for path in study.iterdir()] == [".lock"]


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_takes_no_file_is_one_line_a_round(tmp_path, monkeypatch, caplog, fault):
    if fault == "full":
        usage = namedtuple("usage", "free")(early_files.ROUND_BYTES + 10)
        monkeypatch.setattr(early_files.shutil, "disk_usage", lambda path: usage)
    else:
        (tmp_path / ".early").write_text("no folder can be made here")
    folder = tmp_path / ".early"
    with caplog.at_level(logging.WARNING):
        silos, found = rounds(folder, EarlyFiles(folder))
    same(found, rounds(folder, None)[1])
    assert silos.most == len(NAMES) - 1
    assert [line.args[0] for line in caplog.records] == [1, 2]
    assert "wait in memory" in caplog.text
    assert ("268,435,466 bytes of disk are free" in caplog.text) is (fault == "full")


def test_a_file_that_cannot_be_read_leaves_out_its_site_alone(tmp_path):
    folder = tmp_path / ".early"
    early = EarlyFiles(folder)
    delta = {"body.w": torch.ones(2), "body.a": torch.zeros(1)}
    early.keep(Update("a", 3, delta, 1.0))
    early.keep(Update("b", 3, delta, 1.0))
    (folder / "0.safetensors").write_bytes(b"damaged")
    refused = early.take("a")
    assert refused.silo == "a"
    assert str(folder / "0.safetensors") in refused.reason
    taken = early.take("b").delta
    assert list(taken) == list(delta)
    assert torch.equal(taken["body.w"], delta["body.w"])
    assert not list(folder.iterdir())
