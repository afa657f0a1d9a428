"""The stack as an engine: order, other jobs, failures, and silos that diverge."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fedtl.errors import PartitionError, SiloFailed
from fedtl.methods.base import Phase
from fedtl.models.roles import Partition
from fedtl.models.state import copy_state
from fedtl.simulation import stacked
from fedtl.simulation.engine import Fit
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from fedtl.simulation.stacked_net import STACK, stack_of
from fedtl.training import recorded
from tests.simulation.stacked.stacks import (
    CLASSES,
    SHAPES,
    data_of,
    federate,
    five,
    same,
    silos_of,
    task_of,
    trainer_of,
)


def test_results_come_in_the_order_of_the_silos():
    trainer = trainer_of("mlp")
    silos = silos_of(trainer, five("mlp", (CLASSES, ("x", "y"), CLASSES, ("x", "y"), CLASSES)))
    for order in (silos, silos[::-1], silos[2:] + silos[:2]):
        results = list(Stacked(trainer, 2).each(Fit(task_of(trainer, silos[0])), order))
        assert [name for name, _ in results] == [update.silo for _, update in results]
        assert [name for name, _ in results] == [silo.name for silo in order]


def test_every_other_job_is_done_as_in_serial():
    trainer, failure = trainer_of("mlp"), SiloFailed("no")

    def job(at, silo):
        if silo.name == "b":
            raise failure
        return at, silo

    silos = silos_of(trainer, five("mlp"))[:3]
    with Stacked(trainer, 2) as engine:
        found = list(engine.each(job, silos))
    assert found == [("a", (trainer, silos[0])), ("b", failure), ("c", (trainer, silos[2]))]
    assert engine.workers == 1


def test_a_stack_that_fails_is_trained_one_after_another(monkeypatch, caplog):
    """This holds also for a failure at the end, because no silo has changed until then."""
    trainer, split, calls = trainer_of("mlp"), Partition.split, []
    silos, others = silos_of(trainer, five("mlp")), silos_of(trainer, five("mlp"))
    task = task_of(trainer, silos[0])

    def failing(partition, state):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return split(partition, state)

    monkeypatch.setattr(Partition, "split", failing)
    found = dict(Stacked(trainer, 5).each(Fit(task), silos))
    wanted = dict(Serial(trainer).each(Fit(task), others))
    assert "e, b, c, a, d" in caplog.text
    for silo, other in zip(silos, others, strict=True):
        assert same(found[silo.name].delta, wanted[silo.name].delta)
        assert same(silo.local, other.local)


def test_an_error_of_fedtls_own_ends_the_run(caplog):
    trainer = trainer_of("mlp")
    silos = silos_of(trainer, five("mlp"))
    task = replace(task_of(trainer, silos[0]), shared={})
    with pytest.raises(PartitionError):
        list(Stacked(trainer, 5).each(Fit(task), silos))
    assert not caplog.records


def test_few_results_are_held_back():
    """Taking the first result trains two silos, not all five."""
    trainer = trainer_of("mlp")
    silos = silos_of(trainer, five("mlp"))
    before = [silo.local for silo in silos]
    next(Stacked(trainer, 2).each(Fit(task_of(trainer, silos[0])), silos))
    assert [silo.local is not old for silo, old in zip(silos, before, strict=True)] == [True] * 2 + [
        False
    ] * 3


@pytest.mark.parametrize("poison", [torch.nan, 1e300])
def test_a_silo_that_diverges_fails_alone(poison):
    """The others have the bits that they have beside a silo that does not diverge."""
    found = []
    for spoilt in (True, False):
        trainer = trainer_of("convnet", "fedbn")
        silos = silos_of(trainer, five("convnet"))
        if spoilt:
            silos[1].data.train.x[:] *= poison
        before = copy_state(silos[1].local)
        results = list(Stacked(trainer, 5).each(Fit(task_of(trainer, silos[0], number=2)), silos))
        found.append((dict(results), {silo.name: silo.local for silo in silos}))
        assert [name for name, _ in results] == list("abcde")
        assert same(silos[1].local, before) is spoilt
    (sick, locals_), (well, locals_too) = found
    (bad,) = silos_of(trainer, {"b": data_of(1, 13, SHAPES["convnet"])})
    bad.data.train.x[:] *= poison
    with pytest.raises(SiloFailed) as alone:
        trainer.fit(bad, task_of(trainer, bad, number=2))
    assert isinstance(sick["b"], SiloFailed)
    assert str(sick["b"]) == str(alone.value)
    for name in "acde":
        assert same(sick[name].delta, well[name].delta)
        assert same(locals_[name], locals_too[name])


def test_no_step_waits_for_a_number_from_the_device():
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            asked.append(str(function))
            return function(*args, **(kwargs or {}))

    asked = []
    trainer = trainer_of("convnet")
    silos = sorted(silos_of(trainer, five("convnet")), key=lambda silo: -len(silo.data.train))
    net = stack_of(trainer.net(3), [trainer.initial(3)] * 5)
    data = stacked._gather(trainer, silos)
    with Watch():
        stacked._phase(trainer, net, Phase(), silos, data, task_of(trainer, silos[0]), 0)
    assert sum("convolution_backward" in name for name in asked) == 3 * 4
    waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal.default", "unique")
    assert not [name for name in asked if any(wait in name for wait in waits)]


@pytest.mark.parametrize("model", ["linear", "mlp", "convnet"])
def test_recorded_steps_of_a_stack_have_the_bits_of_ordinary_ones(model, monkeypatch):
    found = {}
    for eager in (0, 10**9):
        monkeypatch.setattr(recorded, "EAGER_STEPS", eager)
        trainer = trainer_of(model)
        found[eager] = federate(Stacked(trainer, 5), trainer, five(model))
        (steps,) = trainer.net(3).kept["stack", 5].kept.values()
        assert {type(kind) for kind in steps._kinds.values()} == {int if eager else recorded.Replay}
    (shared, locals_, replies), (wanted, wanted_locals, wanted_replies) = found.values()
    assert same(shared, wanted)
    assert all(same(its, wanted_locals[name]) for name, its in locals_.items())
    assert replies == wanted_replies


def stacks_of(trainer):
    return [kind for kind in trainer.net(3).kept if isinstance(kind, tuple) and kind[0] == STACK]


def test_one_stack_is_kept_and_none_after_an_error(monkeypatch):
    trainer = trainer_of("mlp")
    silos, engine = silos_of(trainer, five("mlp")), Stacked(trainer, 5)
    for count in (2, 3, 4, 4):
        dict(engine.each(Fit(task_of(trainer, silos[0])), silos[:count]))
        assert stacks_of(trainer) == [(STACK, count)]

    def short(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(stacked, "_phase", short)
    assert all(
        not isinstance(one, SiloFailed) for _, one in engine.each(Fit(task_of(trainer, silos[0])), silos)
    )
    assert stacks_of(trainer) == []


def test_a_tensor_of_another_shape_is_refused():
    trainer = trainer_of("mlp")
    wrong = {**trainer.initial(3), "head.bias": torch.zeros(1)}
    with pytest.raises(ValueError, match="head.bias"):
        stack_of(trainer.net(3), [wrong] * 2)
