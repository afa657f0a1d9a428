"""Silos trained in one stack, compared with the same silos one after another on the serial engine."""

from dataclasses import replace

import pytest
import torch
from torch import nn, optim
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from fedtl.data.dataset import Dataset, SiloDataset, pool
from fedtl.errors import ConfigError, PartitionError, SiloFailed
from fedtl.experiment.config.schema import CompareSettings
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Task
from fedtl.methods.base import Method, Phase
from fedtl.methods.losses import TaskLoss
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.models.net import ModelSpec
from fedtl.models.registry import model_spec
from fedtl.models.roles import Partition, Role
from fedtl.models.state import copy_state
from fedtl.simulation import stackable, stacked
from fedtl.simulation.engine import Fit, Simulation
from fedtl.simulation.masked_norm import MaskedNorm
from fedtl.simulation.serial import Serial
from fedtl.simulation.stackable import why_not_stackable
from fedtl.simulation.stacked import Stacked
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

COMPARED = [*CompareSettings().methods, "fedrep", "fedbabu", "silobn", "lgfedavg"]
OWN_HEAD = ["local", "fedper", "fedtl", "fedrep", "fedbabu"]
SHAPES = {"mlp": (5,), "linear": (5,), "convnet": (1, 8, 8), "resnet20": (1, 8, 8), "digitmodel": (1, 8, 8)}
CLASSES = ("a", "b", "c")
SIZES = (6, 13, 9, 4, 17)  # in batches of 4: 9, 13 and 17 have a last one of a single row, 6 one of two
FEW = TrainingConfig(lr=0.05, batch_size=4, weight_decay=0.01)


@pytest.fixture(autouse=True)
def double():
    """In float64, rounding neither hides an error nor grows into one over the rounds."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def rows_of(seed, n, shape, classes):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator) * (1 + seed % 3) + seed / 10
    if not classes:
        return Dataset(x, x.flatten(1).sum(1) * 3 + 50)
    return Dataset(x, torch.randint(len(classes), (n,), generator=generator))


def data_of(seed, n, shape, classes=CLASSES, **more):
    return SiloDataset(
        rows_of(seed, n, shape, classes), rows_of(seed + 50, 5, shape, classes), classes, **more
    )


def five(model, labels=(CLASSES,) * 5, sizes=SIZES, **more):
    return {
        name: data_of(seed, n, SHAPES[model], classes, **more)
        for seed, (name, n, classes) in enumerate(zip("abcde", sizes, labels, strict=True))
    }


def trainer_of(model, method="fedtl", training=FEW):
    method = METHODS[method]() if isinstance(method, str) else method
    return Trainer(model_spec(model, SHAPES[model], 0), method, training)


def silos_of(trainer, data):
    silos = []
    for name, its in data.items():
        _, local = trainer.partition.split(trainer.initial(its.width))
        silos.append(Silo(name, its, local, name.encode()))
    return silos


def task_of(trainer, silo, number=1):
    shared, _ = trainer.partition.split(trainer.initial(silo.data.width))
    return Task("test", number, 3, 0, shared)


def federate(engine, trainer, data, number=2):
    """The server's and every silo's final tensors, and the replies of each round."""
    silos = silos_of(trainer, data)
    shared, _ = trainer.partition.split(trainer.initial(silos[0].data.width))
    simulation = Simulation(engine, {silo.name: silo for silo in silos})
    plan = FederationConfig("test", 0, number, ServerStep())
    every = list(run_rounds(simulation, plan, ServerState(0, shared), trainer.partition.roles))
    replies = [{name: (r.metrics, r.weight) for name, r in one.replies.items()} for one in every]
    return every[-1].after.shared, {silo.name: silo.local for silo in silos}, replies


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-7, atol=1e-9), name


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def compare(model, method, data, training=FEW, size=3):
    """Two rounds on both engines give the same, and some tensor has changed."""
    trainer = trainer_of(model, method, training)
    shared, locals_, replies = federate(Stacked(trainer, size), trainer, data)
    shared_too, locals_too, replies_too = federate(Serial(trainer), trainer, data)
    close(shared, shared_too)
    for name, local in locals_too.items():
        close(locals_[name], local)
    for one, other in zip(replies, replies_too, strict=True):
        assert one.keys() == other.keys()
        for name, (metrics, weight) in other.items():
            assert one[name][0] == pytest.approx(metrics, rel=1e-5)
            assert one[name][1] == weight
    before = trainer.initial(next(iter(data.values())).width)
    after = {**shared, **next(iter(locals_.values()))}
    assert any(not torch.equal(after[name], before[name]) for name in before)


# The same result


@pytest.mark.parametrize("method", COMPARED)
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_a_stack_learns_what_each_silo_learns_alone(model, method):
    data = five(model)
    compare(model, method, {"all": pool(list(data.values()))} if METHODS[method]().pool else data)


@pytest.mark.parametrize("method", ["fedavg", "fedtl", "fedrep"])
def test_a_stack_of_models_without_a_body_learns_what_each_silo_learns_alone(method):
    compare("linear", method, five("linear"))


@pytest.mark.parametrize("method", ["fedavg", "fedtl", "fedrep"])
def test_a_stack_of_resnets_learns_what_each_silo_learns_alone(method):
    data = five("resnet20", sizes=(5, 7, 4, 8, 6))
    compare("resnet20", method, data, size=5)


def test_a_stack_of_the_digits_model_learns_what_each_silo_learns_alone():
    """Some of its 512 channels hardly vary over few rows, where their norm would enlarge rounding errors; so more rows."""
    data = {name: data_of(n, n, SHAPES["digitmodel"]) for name, n in (("a", 20), ("b", 24))}
    compare("digitmodel", "fedtl", data, replace(FEW, batch_size=12))


@pytest.mark.parametrize("method", OWN_HEAD)
def test_silos_with_label_sets_of_their_own(method):
    few, many = ("x", "y"), ("p", "q", "r", "s")
    compare("mlp", method, five("mlp", (few, CLASSES, few, many, CLASSES)), size=2)


@pytest.mark.parametrize("method", ["fedavg", "fedtl"])
def test_regression_with_a_scale_of_each_silos_own(method):
    data = five("mlp", ((),) * 5)
    own = {
        name: replace(its, y_mean=float(its.train.y.mean()), y_std=float(its.train.y.std()))
        for name, its in data.items()
    }
    compare("mlp", method, own)


@pytest.mark.parametrize(
    "training",
    [
        TrainingConfig(lr=0.1, momentum=0.0, batch_size=4),
        TrainingConfig(lr=0.05, momentum=0.9, weight_decay=0.3, batch_size=4, epochs=2),
        TrainingConfig(lr=0.05, batch_size=4, freeze=1, body_lr=0.1, weight_decay=0.1),
        TrainingConfig(lr=0.05, batch_size=10_000, epochs=3),
        TrainingConfig(lr=0.1, schedule="cosine", batch_size=4),
        *(
            TrainingConfig(optimizer=name, lr=0.003, weight_decay=0.1, batch_size=4, body_lr=0.5)
            for name in ("adam", "adamw", "adagrad", "adadelta", "rmsprop", "nadam")
        ),
    ],
    ids=[
        "plain",
        "decay",
        "freeze",
        "one batch",
        "cosine",
        "adam",
        "adamw",
        "adagrad",
        "adadelta",
        "rmsprop",
        "nadam",
    ],
)
@pytest.mark.parametrize("method", ["fedtl", "fedrep"])
def test_settings_have_the_same_effect_in_a_stack(method, training):
    compare("mlp", method, five("mlp"), training)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_the_size_of_a_stack_does_not_change_the_result(size):
    compare("mlp", "fedavg", five("mlp"), size=size)


def test_a_stack_of_one():
    trainer = trainer_of("mlp")
    (silo,), (other,) = (silos_of(trainer, {"a": data_of(1, 13, (5,))}) for _ in range(2))
    update = stacked.fit(trainer, [silo], task_of(trainer, silo))["a"]
    wanted = trainer.fit(other, task_of(trainer, other))
    close(update.delta, wanted.delta)
    close(silo.local, other.local)


def test_pixels_in_single_precision():
    torch.set_default_dtype(torch.float32)
    trainer = trainer_of("convnet")
    found = []
    for engine in (Stacked(trainer, 4), Serial(trainer)):
        data = {}
        for seed, (name, its) in enumerate(five("convnet").items()):
            generator = torch.Generator().manual_seed(seed)
            pixels = torch.randint(0, 256, its.train.x.shape, dtype=torch.uint8, generator=generator)
            data[name] = replace(its, train=Dataset(pixels, its.train.y), val=Dataset(pixels, its.train.y))
        silos = silos_of(trainer, data)
        found.append((dict(engine.each(Fit(task_of(trainer, silos[0])), silos)), silos))
    (updates, silos), (wanted, others) = found
    for name, update in wanted.items():
        assert updates[name].metrics == update.metrics
        for tensor, value in update.delta.items():
            torch.testing.assert_close(updates[name].delta[tensor], value, rtol=1e-3, atol=1e-5)
    for silo, other in zip(silos, others, strict=True):
        for tensor, value in other.local.items():
            torch.testing.assert_close(silo.local[tensor], value, rtol=1e-3, atol=1e-5)


# The engine


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
    net = stacked._stack(trainer.net(3), [trainer.initial(3)] * 5)
    data = stacked._gather(trainer, silos)
    with Watch():
        stacked._phase(trainer, net, Phase(), silos, data, task_of(trainer, silos[0]), 0)
    assert sum("convolution_backward" in name for name in asked) == 3 * 4
    waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal.default", "unique")
    assert not [name for name in asked if any(wait in name for wait in waits)]


# Padding, and silos that have finished


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


# What cannot be stacked


def with_layer(layer):
    body = nn.Sequential(nn.Linear(5, 4), layer)
    plan = ModelSpec(body, lambda width: nn.Linear(4, width), 4, "classifier", 0)
    return Trainer(plan, METHODS["fedtl"](), FEW)


class Frozen(nn.Module):
    """Like torchvision's FrozenBatchNorm2d: statistics without weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x):
        return (x - self.running_mean) / self.running_var.sqrt()


class ActiveNorm(nn.BatchNorm1d):
    """Like timm's BatchNormAct2d: a norm with an activation."""

    def __init__(self):
        super().__init__(4)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Scaled(nn.Module):
    """A container with a tensor of its own."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.inner(x) * self.scale


def twice():
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    layers[1].weight = layers[0].weight
    return layers


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.Dropout(0.5), r"body\.1 \(Dropout\)"),
        (nn.LayerNorm(4), r"\(LayerNorm\)"),
        (nn.LayerNorm(4, elementwise_affine=False), r"\(LayerNorm\)"),
        (nn.GroupNorm(2, 4), r"\(GroupNorm\)"),
        (nn.InstanceNorm1d(4), r"\(InstanceNorm1d\)"),
        (nn.SyncBatchNorm(4), r"\(SyncBatchNorm\)"),
        (Frozen(), r"\(Frozen\)"),
        (ActiveNorm(), r"\(ActiveNorm\)"),
        (Scaled(), r"\(Scaled\)"),
        (nn.BatchNorm1d(4, momentum=None), "without scale, momentum"),
        (nn.BatchNorm1d(4, affine=False), "without scale, momentum"),
        (nn.BatchNorm1d(4, track_running_stats=False), "without scale, momentum"),
        (twice(), "a weight that two layers share"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_layer_that_cannot_be_stacked_is_refused(layer, match):
    with pytest.raises(ConfigError, match=match) as caught:
        Stacked(with_layer(layer), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "objective"),
    [
        ("fedprox", "TaskLoss + Proximal"),
        ("dann", "TaskLoss + DomainAdversarial"),
        ("mmd", "TaskLoss + MaximumMeanDiscrepancy"),
        ("coral", "TaskLoss + Coral"),
        (Method(objective=(TaskLoss(), TaskLoss())), "TaskLoss + TaskLoss"),
    ],
)
def test_another_objective_is_refused(method, objective):
    reason = why_not_stackable(trainer_of("mlp", method))
    assert reason is not None
    assert f"the objective {objective} " in reason
    assert "engine.stack = 1" in reason


def test_an_optimiser_whose_step_is_not_elementwise_is_refused(monkeypatch):
    monkeypatch.setitem(stackable.OPTIMIZERS, "lbfgs", optim.LBFGS)
    reason = why_not_stackable(trainer_of("mlp", training=TrainingConfig(optimizer="lbfgs")))
    assert reason is not None
    assert "train.optimizer = 'lbfgs'" in reason


@pytest.mark.parametrize("model", SHAPES)
def test_the_models_of_fedtls_own_are_not_refused(model):
    for method in COMPARED:
        assert why_not_stackable(trainer_of(model, method)) is None
