"""The engine of several processes: a killed worker loses nothing, and no tensor is pickled."""

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

import pytest
import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import DataError, FedTLError, SiloFailed
from fedtl.simulation import processes, scheduler
from fedtl.simulation.engine import WorkerContext
from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from fedtl.simulation.temp_folder import temporary_folder
from fedtl.training.silo import Silo
from tests.commands import fork_instead_of_spawn
from tests.simulation.stacked import stacks

NAMES = [f"s{number}" for number in range(7)]


@pytest.fixture
def forked(monkeypatch):
    """Workers start fast: how they start is not the subject."""
    fork_instead_of_spawn(monkeypatch)


def data(name):
    return SiloDataset(Dataset(torch.full((4, 2), float(name[1:])), torch.zeros(4)), Dataset(torch.empty(0, 2), torch.empty(0)), ())  # fmt: skip


class Anybody(int):
    """A trainer for jobs that train nothing: it knows its process."""

    others = {}  # silos with models of their own


def make_context():
    return WorkerContext(trainer=Anybody(os.getpid()), data=data)


def silos():
    return [Silo(name, data(name), {"w": torch.tensor([1.0])}, name.encode()) for name in NAMES]


@dataclass(frozen=True)
class Add:
    """Adds ``sent`` to the silo's tensor. ``trouble``: (silo, action, how often); a file marks each time it was done."""

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
@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_silos_and_local_state_comes_back(workers, tmp_path):
    members = silos()
    results = do(Processes(make_context, workers, 1), Add(torch.tensor([5.0]), tmp_path), members)
    assert [name for name, _ in results] == NAMES
    assert [result["w"].item() / 2 for _, result in results] == expected(5)
    assert [silo.local["w"].item() for silo in members] == expected(5)
    assert [result["secret"] for _, result in results] == [name.encode() for name in NAMES]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("what", [die, fault])
def test_a_job_that_failed_once_is_repeated_from_the_same_state(what, tmp_path):
    for engine, marks in (
        (Processes(make_context, 2, 1), tmp_path / "many"),
        (Serial(Anybody()), tmp_path / "one"),
    ):
        if what is die and isinstance(engine, Serial):
            continue
        marks.mkdir()
        members = silos()
        results = do(engine, Add(torch.tensor([5.0]), marks, (("s3", what, 1), ("s0", what, 1))), members)
        assert [result["w"].item() / 2 for _, result in results] == expected(5)
        assert [silo.local["w"].item() for silo in members] == expected(5)
        assert len(list(marks.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(("what", "says"), [(die, "exit code -9"), (fault, "ZeroDivisionError: a fault")])  # fmt: skip
def test_a_silo_that_failed_twice_is_left_out(what, says, tmp_path, caplog):
    members = silos()
    results = dict(
        do(Processes(make_context, 2, 1), Add(torch.tensor([5.0]), tmp_path, (("s3", what, 9),)), members)
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


def test_the_serial_engine_has_the_same_message(tmp_path):
    members = silos()
    results = dict(do(Serial(Anybody()), Add(torch.tensor([5.0]), tmp_path, (("s3", fault, 9),)), members))
    assert str(results["s3"]) == "s3: failed 2 times: ZeroDivisionError: a fault"
    assert members[3].local["w"].item() == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_silo_failed_is_not_repeated_and_a_data_error_ends_the_run(tmp_path):
    (tmp_path / "a").mkdir()
    results = dict(do(Processes(make_context, 2, 1), Add(torch.tensor([5.0]), tmp_path / "a", (("s2", diverge, 9),)), silos()))  # fmt: skip
    assert str(results["s2"]) == "s2: it diverged"
    assert len(list((tmp_path / "a").iterdir())) == 1
    with pytest.raises(DataError, match="its file is gone"):
        do(Processes(make_context, 2, 1), Add(torch.tensor([5.0]), tmp_path, (("s2", refuse, 1),)), silos())


def raises_data_error():
    raise DataError("no such model")


def exits():
    os._exit(3)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "match"), [(raises_data_error, "no such model"), (exits, "exit code 3")])  # fmt: skip
def test_a_worker_that_cannot_start_ends_the_run(make, match, tmp_path):
    with pytest.raises(FedTLError, match=match):
        do(Processes(make, 1, 1), Add(torch.tensor([5.0]), tmp_path), silos())


def slow(seconds, silo):
    time.sleep(seconds)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_few_results_are_held_back(tmp_path, monkeypatch):
    """The first silo takes long; meanwhile the others are not all done and kept."""
    handed = []
    hand = Processes.hand
    monkeypatch.setattr(scheduler, "MOST_AT_ONCE", 1)  # as for silos that are not small
    monkeypatch.setattr(processes.Processes, "hand", lambda self, worker, group: handed.extend(group) or hand(self, worker, group))  # fmt: skip
    engine = Processes(make_context, 2, 1)
    with engine:
        results = engine.each(Add(torch.tensor([5.0]), tmp_path, (("s0", partial(slow, 1.5), 1),)), silos())
        assert next(results)[0] == "s0"
        assert max(handed) <= 4
        assert [name for name, _ in results] == NAMES[1:]


@pytest.mark.slow
def test_no_tensor_is_pickled(tmp_path, monkeypatch):
    def never(self, protocol):
        raise AssertionError("a tensor was pickled")

    monkeypatch.setattr(torch.Tensor, "__reduce_ex__", never)
    with pytest.raises(AssertionError):
        pickle.dumps(torch.zeros(1))
    results = do(Processes(make_context, 1, 1), Add(torch.zeros(1 << 20), tmp_path), silos())
    assert len(results) == len(NAMES)


def shm():
    return {path.name for path in Path("/dev/shm").glob("fedtl-*")}


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
def test_the_next_run_removes_the_shared_memory_of_a_killed_one(tmp_path):
    """The shared memory of a run that still lives is kept."""
    code = "import sys; sys.path.insert(0, {!r}); import test_processes as t; e = t.Processes(t.make_context, 1, 1); e.__enter__(); print(e._folder.name, flush=True); import time; time.sleep(99)"
    command = [sys.executable, "-c", code.format(str(Path(__file__).parent))]
    first, second = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    killed, living = first.stdout.readline().strip(), second.stdout.readline().strip()
    first.kill()
    first.wait()
    first.stdout.close()
    deadline = time.monotonic() + 20  # until its worker has noticed that its parent is gone
    while time.monotonic() < deadline:
        with temporary_folder(processes.memory_folder()):
            pass
        if killed not in shm():
            break
        time.sleep(0.2)
    assert killed not in shm()
    assert living in shm()
    second.kill()
    second.wait()
    second.stdout.close()


@pytest.mark.slow
def test_a_context_that_cannot_be_unpickled_ends_the_run_with_the_reason(tmp_path):
    """One such context is a function that is defined in a notebook."""
    with pytest.raises(FedTLError, match="cannot be set up"):
        do(Processes(Unpicklable(), 1, 1), Add(torch.tensor([5.0]), tmp_path), silos())


class Unpicklable:
    def __call__(self):
        raise AttributeError("module '__main__' has no attribute 'f'")


def make_stackable_context():
    data = stacks.five("mlp")
    return WorkerContext(stacks.trainer_of("mlp"), data.__getitem__)


@pytest.mark.slow
def test_stacks_have_the_same_bits_on_any_number_of_workers(forked):
    trainer, data = stacks.trainer_of("mlp"), stacks.five("mlp")
    alone = stacks.federate(Stacked(trainer, 2), trainer, data)
    with Processes(make_stackable_context, 2, 1, stack=2) as engine:
        shared, locals_, replies = stacks.federate(engine, trainer, data)
        other = dict(engine.each(WhatItHas(), stacks.silos_of(trainer, data)))
    assert stacks.same(shared, alone[0])
    assert all(stacks.same(locals_[name], alone[1][name]) for name in data)
    assert replies == alone[2]
    assert other == {name: len(its.train) for name, its in data.items()}
    one_by_one = stacks.federate(Serial(trainer), trainer, data)
    assert not stacks.same(shared, one_by_one[0])  # it was stacks that were trained


@dataclass(frozen=True)
class WhatItHas:
    """Another job than that of a round."""

    def __call__(self, trainer, silo):
        return len(silo.data.train)
