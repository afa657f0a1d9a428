"""Several processes are one engine: nothing is lost with a worker, nothing that is a tensor is pickled."""

import fcntl
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import DataError, FedTLError, SiloFailed
from fedtl.messages import Task
from fedtl.simulation import processes
from fedtl.simulation import shared_store as parcel
from fedtl.simulation.engine import WorkerContext
from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.shared_store import SharedStore, temporary
from fedtl.simulation.temp_folder import scratch
from fedtl.training.silo import Silo

NAMES = [f"s{number}" for number in range(7)]


def data(name):
    return SiloDataset(Dataset(torch.full((4, 2), float(name[1:])), torch.zeros(4)), Dataset(torch.empty(0, 2), torch.empty(0)), ())  # fmt: skip


def furnish():
    return WorkerContext(trainer=os.getpid(), data=data)


def silos():
    return [Silo(name, data(name), {"w": torch.tensor([1.0])}, name.encode()) for name in NAMES]


@dataclass(frozen=True)
class Add:
    """Adds what was sent to the silo's own; ``trouble`` (a silo's name: what to do there) once for each mark file."""

    sent: torch.Tensor
    marks: Path
    trouble: tuple = ()

    def __call__(self, trainer, silo):
        for name, what, times in self.trouble:
            for number in range(times):
                mark = self.marks / f"{name}-{number}"
                if name == silo.name and not mark.exists():
                    mark.touch()
                    what(silo)
        silo.local = {"w": silo.local["w"] + self.sent[0] + silo.data.train.x[0, 0]}
        return {"who": silo.name, "secret": silo.secret, "w": silo.local["w"] * 2}


def die(silo):
    silo.local["w"].fill_(1e9)
    os.kill(os.getpid(), signal.SIGKILL)


def fault(silo):
    raise ZeroDivisionError("a fault\nof several lines")


def diverge(silo):
    raise SiloFailed(f"{silo.name}: it diverged")


def refuse(silo):
    raise DataError("its file is gone")


def do(engine, job, members):
    with engine:
        return list(engine.each(job, members))


def expected(sent):
    return [1.0 + sent + number for number in range(len(NAMES))]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_silos_and_local_state_comes_back(workers, tmp_path):
    members = silos()
    results = do(Processes(furnish, workers, 1), Add(torch.tensor([5.0]), tmp_path), members)
    assert [name for name, _ in results] == NAMES
    assert [result["w"].item() / 2 for _, result in results] == expected(5)
    assert [silo.local["w"].item() for silo in members] == expected(5)
    assert [result["secret"] for _, result in results] == [name.encode() for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("what", [die, fault])
def test_what_failed_once_is_done_again_and_nothing_is_changed_by_it(what, tmp_path):
    for engine, marks in ((Processes(furnish, 2, 1), tmp_path / "many"), (Serial(None), tmp_path / "one")):
        if what is die and isinstance(engine, Serial):
            continue
        marks.mkdir()
        members = silos()
        results = do(engine, Add(torch.tensor([5.0]), marks, (("s3", what, 1), ("s0", what, 1))), members)
        assert [result["w"].item() / 2 for _, result in results] == expected(5)
        assert [silo.local["w"].item() for silo in members] == expected(5)
        assert len(list(marks.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("what", "says"), [(die, "its worker process died.*-9"), (fault, "ZeroDivisionError: a fault")])  # fmt: skip
def test_what_failed_twice_is_left_out_by_name_and_the_others_go_on(what, says, tmp_path, caplog):
    members = silos()
    results = dict(
        do(Processes(furnish, 2, 1), Add(torch.tensor([5.0]), tmp_path, (("s3", what, 9),)), members)
    )
    assert isinstance(results["s3"], SiloFailed)
    (line,) = str(results["s3"]).splitlines()
    assert line.startswith("s3: failed 2 times: ")
    assert re.search(says, line)
    assert members[3].local["w"].item() == 1.0
    assert len(list(tmp_path.iterdir())) == 2
    assert [results[name]["w"].item() / 2 for name in NAMES if name != "s3"] == [
        v for v in expected(5) if v != 9
    ]
    assert ("raise ZeroDivisionError" in caplog.text) == (what is fault)


def test_serial_fails_in_the_same_words(tmp_path):
    members = silos()
    results = dict(do(Serial(None), Add(torch.tensor([5.0]), tmp_path, (("s3", fault, 9),)), members))
    assert str(results["s3"]) == "s3: failed 2 times: ZeroDivisionError: a fault"
    assert members[3].local["w"].item() == 1.0


@pytest.mark.slow
def test_a_silo_that_cannot_is_not_asked_twice_and_a_users_mistake_ends_the_run(tmp_path):
    (tmp_path / "a").mkdir()
    results = dict(do(Processes(furnish, 2, 1), Add(torch.tensor([5.0]), tmp_path / "a", (("s2", diverge, 9),)), silos()))  # fmt: skip
    assert str(results["s2"]) == "s2: it diverged"
    assert len(list((tmp_path / "a").iterdir())) == 1
    with pytest.raises(DataError, match="its file is gone"):
        do(Processes(furnish, 2, 1), Add(torch.tensor([5.0]), tmp_path, (("s2", refuse, 1),)), silos())


def cannot_begin():
    raise DataError("no such model")


def dies_at_once():
    os._exit(3)


@pytest.mark.slow
@pytest.mark.parametrize(("begin", "says"), [(cannot_begin, "no such model"), (dies_at_once, "died while it started .exit code 3")])  # fmt: skip
def test_a_worker_that_cannot_begin_ends_the_run_with_its_reason(begin, says, tmp_path):
    with pytest.raises(FedTLError, match=says):
        do(Processes(begin, 2, 1), Add(torch.tensor([5.0]), tmp_path), silos())


def slow(seconds, silo):
    time.sleep(seconds)


@pytest.mark.slow
def test_no_more_results_wait_than_there_are_workers(tmp_path, monkeypatch):
    """The first silo takes long; meanwhile the others are not all done and kept."""
    handed = []
    hand = Processes.hand
    monkeypatch.setattr(processes.Processes, "hand", lambda self, worker, at, silo: handed.append(at) or hand(self, worker, at, silo))  # fmt: skip
    engine = Processes(furnish, 2, 1)
    with engine:
        results = engine.each(Add(torch.tensor([5.0]), tmp_path, (("s0", partial(slow, 3), 1),)), silos())
        assert next(results)[0] == "s0"
        assert max(handed) <= 4
        assert [name for name, _ in results] == NAMES[1:]


@pytest.mark.slow
def test_nothing_that_is_a_tensor_is_pickled(tmp_path, monkeypatch):
    def never(self, protocol):
        raise AssertionError("a tensor was pickled")

    monkeypatch.setattr(torch.Tensor, "__reduce_ex__", never)
    with pytest.raises(AssertionError):
        pickle.dumps(torch.zeros(1))
    results = do(Processes(furnish, 1, 1), Add(torch.zeros(1 << 20), tmp_path), silos())
    assert len(results) == len(NAMES)


def shm():
    return {path.name for path in Path("/dev/shm").glob("fedtl-*")}


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
def test_a_killed_run_leaves_nothing_for_long(tmp_path):
    """What kill -9 left in shared memory goes when the next run begins; what a living run has stays."""
    code = "import sys; sys.path.insert(0, {!r}); import test_processes as t; e = t.Processes(t.furnish, 1, 1); e.__enter__(); print(e._folder.name, flush=True); import time; time.sleep(99)"
    command = [sys.executable, "-c", code.format(str(Path(__file__).parent))]
    first, second = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    killed, living = first.stdout.readline().strip(), second.stdout.readline().strip()
    first.kill()
    first.wait()
    first.stdout.close()
    deadline = time.monotonic() + 20  # its worker notices, and lets go
    while time.monotonic() < deadline:
        with scratch(processes.memory()):
            pass
        if killed not in shm():
            break
        time.sleep(0.2)
    assert killed not in shm()
    assert living in shm()
    second.kill()
    second.wait()
    second.stdout.close()


def test_a_scratch_folder_is_private_and_goes(tmp_path):
    with scratch(str(tmp_path)) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("x")
        with open(folder / ".lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not list(tmp_path.iterdir())


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), max_size=5),
    st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text() | st.floats(allow_nan=False), max_size=4),
)  # fmt: skip
def test_a_parcel_holds_what_was_put_in(tmp_path_factory, kinds, plain):
    path = tmp_path_factory.mktemp("parcel") / "file"
    tensors = [(torch.randn(shape) * 9).to(dtype) for dtype, shape in kinds]
    parcel.write(path, (plain, tensors, np.arange(5)[::2], np.array(["a", "bc"])))
    same, back, numbers, words = parcel.read(path)
    assert same == plain
    assert numbers.tolist() == [0, 2, 4]
    assert words.tolist() == ["a", "bc"]
    for tensor, other in zip(tensors, back, strict=True):
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(other, tensor)


def test_a_parcel_is_mapped_and_private_once_written_to(tmp_path):
    path = tmp_path / "file"
    parcel.write(path, Task("study", 1, 1, 0, {"w": torch.arange(6.0).reshape(2, 3).t()}))
    assert path.stat().st_mode & 0o777 == 0o600
    one, other = parcel.read(path), parcel.read(path)
    path.unlink()
    one.shared["w"].add_(1)
    assert torch.equal(other.shared["w"], torch.arange(6.0).reshape(2, 3).t())
    assert torch.equal(one.shared["w"], other.shared["w"] + 1)


def test_a_shelf_makes_a_value_once():
    made = []
    with temporary() as shelf:
        for _ in range(3):
            value = shelf.keep("a", lambda: made.append(1) or torch.ones(2))
        assert made == [1]
        assert value.tolist() == [1, 1]
        again = SharedStore(shelf.folder)
        assert again.has("a")
        again.drop("a")
        assert not shelf.has("a")
        assert value.tolist() == [1, 1]
