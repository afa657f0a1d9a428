"""Padding, and silos that have finished, have no effect."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from fedtl.data.dataset import Dataset
from fedtl.methods.registry import METHODS
from fedtl.models.roles import Role
from fedtl.models.state import copy_state
from fedtl.simulation import stacked
from fedtl.simulation.engine import Fit
from fedtl.simulation.masked_norm import MaskedNorm
from fedtl.simulation.stacked import Stacked
from fedtl.training.loop import TrainingConfig
from tests.simulation.stacked.stacks import FEW, compare, data_of, five, same, silos_of, task_of, trainer_of


@pytest.mark.parametrize("model", ["mlp", "convnet", "resnet20"])
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, 1e300])
def test_the_padding_of_small_silos_has_no_effect(model, junk, monkeypatch):
    gather, states = stacked._gather, []

    def filled(trainer, silos):
        rows = gather(trainer, silos)
        for place, silo in enumerate(silos):
            rows.x[place, len(silo.data.train) :] = junk
        return rows

    for spoilt in (False, True):
        if spoilt:
            monkeypatch.setattr(stacked, "_gather", filled)
        trainer = trainer_of(model)
        silos = silos_of(trainer, five(model))
        updates = dict(Stacked(trainer, 5).each(Fit(task_of(trainer, silos[0])), silos))
        states.append([updates[silo.name].delta | silo.local for silo in silos])
    assert all(map(same, *states))


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, 1e300])
def test_padding_in_a_batch_is_replaced_by_zeros(junk):
    """A batch of 4 rows and one of 2, which is padded with the silo's first row."""
    x = torch.arange(20.0).view(2, 5, 2)
    x[1, 0] = junk
    drawn = [[torch.tensor([3, 0, 2, 4])], [torch.tensor([4, 2])]]
    ((x, y, mask),) = stacked._batches(drawn, Dataset(x, torch.arange(10).view(2, 5)))
    assert x.tolist() == [[[6, 7], [0, 1], [4, 5], [8, 9]], [[18, 19], [14, 15], [0, 0], [0, 0]]]
    assert y.tolist() == [[3, 0, 2, 4], [9, 7, -1, -1]]
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_silos_leave_the_stack_when_they_have_finished():
    drawn = [[torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4, 5, 6])], [torch.tensor([1, 0])]]
    data = Dataset(torch.zeros(2, 7, 3), torch.zeros(2, 7))
    found = [(tuple(x.shape), y.shape[0], mask) for x, y, mask in stacked._batches(drawn, data)]
    assert found == [((2, 2, 3), 2, None), ((1, 2, 3), 1, None), ((1, 3, 3), 1, None)]
    assert list(stacked._batches([[], []], data)) == []


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_silo_that_has_finished_does_not_change(optimizer):
    """One silo has 2 batches, the other 20: in the other 18 steps decay and momentum would change it."""
    training = TrainingConfig(optimizer=optimizer, lr=0.05, weight_decay=2.0, batch_size=4)
    data = {"long": data_of(1, 80, (5,)), "short": data_of(2, 8, (5,))}
    compare("mlp", "local", data, training, size=2)
    trainer = trainer_of("mlp", "local", training)
    short = silos_of(trainer, data)[1]
    dict(Stacked(trainer, 2).each(Fit(task_of(trainer, short)), [short, silos_of(trainer, data)[0]]))
    assert int(short.local["body.features.2.num_batches_tracked"]) == 2


@pytest.mark.parametrize("roles", [(Role.HEAD,), (Role.BODY, Role.NORM, Role.STATS, Role.COUNT)])
def test_roles_that_a_phase_does_not_train_keep_their_bits(roles):
    method = METHODS["fedrep"]()
    (phase,) = (phase for phase in method.phases if roles[0] in phase.train)
    trainer = trainer_of("mlp", replace(method, phases=(phase,)), replace(FEW, weight_decay=0.5))
    silos = silos_of(trainer, five("mlp"))
    task = task_of(trainer, silos[0])
    before = copy_state(task.shared | silos[0].local)
    updates = dict(Stacked(trainer, 5).each(Fit(task), silos))
    for silo in silos:
        delta = updates[silo.name].delta
        after = {name: task.shared[name] + delta[name] for name in delta} | silo.local
        moved = {name for name in before if not torch.equal(after[name], before[name])}
        assert moved == {name for name, role in trainer.partition.roles.items() if role in roles}


@pytest.mark.parametrize("shape", [(), (3, 2)], ids=["columns", "images"])
@pytest.mark.parametrize("junk", [0.0, 1e300, torch.nan])
def test_the_masked_norm_is_batch_norm_of_the_unmasked_rows(shape, junk):
    kind, present = (nn.BatchNorm2d if shape else nn.BatchNorm1d), (6, 2, 4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 4, *shape, generator=generator) * 3 + 7
    out = torch.randn(x.shape, generator=generator)
    mask = torch.arange(6) < torch.tensor(present)[:, None]
    x[~mask] = junk
    norms = [kind(4, momentum=0.3, eps=1e-3) for _ in present]
    for norm in norms:
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data.copy_(torch.rand(4, generator=generator))
    stack = {name: torch.stack([norm.state_dict()[name] for norm in norms]) for name in norms[0].state_dict()}
    for leaf in (x, stack["weight"], stack["bias"]):
        leaf.requires_grad_()
    module = MaskedNorm(norms[0]).train()
    y = vmap(lambda tensors, mask, x: functional_call(module, tensors | {"mask": mask}, (x,)))(stack, mask, x)
    (y * out)[mask].sum().backward()
    assert not x.grad[~mask].any()
    for place, (norm, n) in enumerate(zip(norms, present, strict=True)):
        mine = x[place, :n].detach().requires_grad_()
        wanted = norm(mine)
        (wanted * out[place, :n]).sum().backward()
        torch.testing.assert_close(y[place, :n], wanted)
        torch.testing.assert_close(x.grad[place, :n], mine.grad)
        torch.testing.assert_close(stack["weight"].grad[place], norm.weight.grad)
        torch.testing.assert_close(stack["bias"].grad[place], norm.bias.grad)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(stack[name][place], norm.state_dict()[name])
