"""The promise of the engines: each gives the bits of a call in this process, or refuses the method in one line."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest

from fedtl.data.dataset import pool
from fedtl.messages import Task
from fedtl.methods.registry import METHODS
from fedtl.simulation.engine import WorkerContext
from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.stackable import why_not_stackable
from tests.methods.promises.trained import Run, rows_of, run_of, silos_of, trainer_of
from tests.simulation.stacked.stacks import compare, five, in_float64
from tests.training.silos import same


def make_context():
    return WorkerContext(trainer_of("fedavg"), rows_of)


@dataclass(frozen=True)
class FitAs:
    """The job of both rounds at a silo whose name is that of the method."""

    tasks: Mapping[str, tuple[Task, Task]]

    def __call__(self, trainer, silo):
        own = replace(trainer, method=METHODS[silo.name](), spec=trainer_of(silo.name).spec)
        first, second = self.tasks[silo.name]
        own.fit(silo, first)
        return own.fit(silo, second)


@lru_cache(None)
def answers(kind):
    """Each method's second update, and its silo, from one engine that trains all methods."""
    silos = [silos_of(trainer_of(name), name)[0] for name in METHODS]
    job = FitAs({name: tuple(seen.task for seen in run_of(name).rounds) for name in METHODS})
    with pytest.MonkeyPatch.context() as patch:
        updates = dict(ENGINES[kind](patch, job, silos))
    return {silo.name: (updates[silo.name], silo) for silo in silos}


def _serial(patch, job, silos):
    return Serial(make_context().trainer).each(job, silos)


def _processes(patch, job, silos):
    with Processes(make_context, 2, 1) as engine:
        return list(engine.each(job, silos))


def _ray(patch, job, silos):
    ray = pytest.importorskip("ray")
    from fedtl.simulation import ray as engines

    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_worker_niceness", "0")  # as in tests/simulation/test_ray.py
    # Beside other tests a start was seen to take longer than a run waits; the bits are what is asked here.
    patch.setattr(engines, "WAIT_SECONDS", 600.0)
    try:
        with engines.RayCluster(make_context, 2, 1, "", "cpu") as engine:
            return list(engine.each(job, silos))
    finally:
        ray.shutdown()


ENGINES = {"serial": _serial, "processes": _processes, "ray": _ray}


def same_bits(run: Run, kind: str) -> None:
    update, silo = answers(kind)[run.name]
    seen = run.rounds[1]
    assert same(update.delta, seen.updates[run.name].delta)
    assert (update.metrics, update.weight) == (seen.updates[run.name].metrics, seen.updates[run.name].weight)
    assert same(silo.local, seen.kept[run.name].local)
    assert silo.labels == seen.kept[run.name].labels


def serial(run, folder):
    same_bits(run, "serial")


def processes(run, folder):
    same_bits(run, "processes")


def ray(run, folder):
    same_bits(run, "ray")


def stacked(run, folder):
    """Within rounding what each silo learns alone; refused where a method keeps, sends or minimises more than a stack knows."""
    reason, method = why_not_stackable(run.trainer), run.trainer.method
    assert bool(reason) == bool(method.slots or method.summaries or len(method.every_term) > 1)
    if reason:
        assert "engine.stack = 1" in reason
        assert "\n" not in reason
        return
    with in_float64():
        data = five("mlp")
        data = {"all": pool(list(data.values()))} if method.pool else data
        compare("mlp", run.name, data, moves=bool(method.phases))
