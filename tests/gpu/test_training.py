"""Training on a GPU: the numbers of the CPU within rounding, no wait for the device in a step, and no memory that stays."""

import gc
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedtl.errors import ConfigError
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec
from fedtl.privacy.noise import CHUNK, Noise, grain
from fedtl.simulation.choose import choose_device
from fedtl.simulation.engine import Fit
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from fedtl.training import recorded
from fedtl.training.graphs import Graph
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import CPU, Trainer
from tests.experiment.private_silos import bench_of, silo_of
from tests.experiment.private_silos import task_of as private_task_of
from tests.simulation.stacked.stacks import SHAPES, five, silos_of, task_of
from tests.training.test_recorded import Sorted, net_with

SETTINGS = TrainingConfig(lr=0.05, batch_size=4, weight_decay=0.01)
# |a - b| / |b| of an update: float32 rounds to 6e-8, which a few steps with ReLU and BatchNorm enlarge. A wrong batch or
# label gives more than 0.1.
TOLERANCE = 5e-3
ENGINES = {"serial": Serial, "stacked": lambda trainer: Stacked(trainer, 5)}


def trainer_on(device, model, method="fedavg", training=SETTINGS, dtype="float32"):
    return Trainer(model_spec(model, SHAPES[model], 0), METHODS[method](), training, device, dtype=dtype)


def updates_of(engine, device, model, **more):
    trainer = trainer_on(device, model, **more)
    silos = silos_of(trainer, five(model))
    results = dict(ENGINES[engine](trainer).each(Fit(task_of(trainer, silos[0])), silos))
    assert all(tensor.device == CPU for one in results.values() for tensor in one.delta.values())
    return results


def distance(found, wanted):
    names = [name for name, tensor in wanted.items() if tensor.is_floating_point()]
    apart = torch.stack([(found[name] - wanted[name]).norm() for name in names]).norm()
    return float(apart / torch.stack([wanted[name].norm() for name in names]).norm())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", ["linear", "mlp", "convnet", "resnet20"])
def test_a_gpu_trains_what_the_cpu_trains(device, model, engine):
    wanted, found = updates_of("serial", CPU, model), updates_of(engine, device, model)
    for name, update in wanted.items():
        assert distance(found[name].delta, update.delta) < TOLERANCE
        assert found[name].metrics == pytest.approx(update.metrics, rel=1e-3)
        assert found[name].weight == update.weight


def kinds_of(trainer, engine):
    """What became of each kind of step that the net of the engine took."""
    net = trainer.net(3)
    net = net.kept["stack", 5] if engine == "stacked" else net
    return [
        kind
        for one in net.kept.values()
        if isinstance(one, recorded.GradientSteps)
        for kind in one._kinds.values()
    ]


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", ["linear", "mlp", "convnet", "resnet20"])
def test_steps_become_graphs_and_compute_the_same(device, model, engine, dtype, monkeypatch):
    found = {}
    for eager in (0, 10**9):
        monkeypatch.setattr(recorded, "EAGER_STEPS", eager)
        trainer = trainer_on(device, model, dtype=dtype)
        silos = silos_of(trainer, five(model))
        for number in (1, 2):  # the graphs of the first round serve in the second
            results = dict(
                ENGINES[engine](trainer).each(Fit(task_of(trainer, silos[0], number=number)), silos)
            )
            if number == 1:
                graphs = kinds_of(trainer, engine)
        assert all(isinstance(kind, int if eager else Graph) for kind in graphs)
        assert eager or kinds_of(trainer, engine) == graphs
        found[eager] = results
    assert graphs
    for name, usual in found[10**9].items():
        assert distance(found[0][name].delta, usual.delta) < (TOLERANCE if dtype == "float32" else 0.1)


@pytest.mark.parametrize("layer", [nn.Dropout, Sorted])
def test_a_step_that_depends_on_values_is_computed_as_usual(device, layer, monkeypatch):
    monkeypatch.setattr(recorded, "EAGER_STEPS", 0)
    net = net_with(layer()).to(device)
    moving = list(net.parameters())
    steps = recorded.recorded_steps(net, moving, layer)
    for _ in range(3):
        x, y = torch.randn(6, 4, device=device), torch.randint(3, (6,), device=device)
        for weight in moving:
            weight.grad = None
        steps.backward((x, y), lambda x=x, y=y: F.cross_entropy(net(x), y))
        assert all(weight.grad.isfinite().all() for weight in moving)
    assert list(steps._kinds.values()) == [None]
    updates_of("serial", device, "mlp")


def test_a_graph_that_cuda_refuses_leaves_the_device_as_it_was(device):
    x, stream = torch.ones(3, device=device), torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        Graph(lambda inputs: [inputs[0] * inputs[0].sum().item()], [x])
    assert torch.cuda.current_stream() == stream
    assert float((x + x).sum()) == 6
    updates_of("serial", device, "mlp")


@pytest.mark.parametrize(
    "method", ["fedtl", "fedbn", "fedprox", "ditto", "scaffold", "fedrep", "ifca", "moon", "mrmtl", "apfl"]
)
def test_a_method_gives_the_same_on_a_gpu(device, method):
    wanted, found = (updates_of("serial", where, "mlp", method=method) for where in (CPU, device))
    for name, update in wanted.items():
        assert distance(found[name].delta, update.delta) < TOLERANCE


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_optimiser_gives_the_same_on_a_gpu(device, optimizer):
    training = replace(SETTINGS, optimizer=optimizer, lr=0.01, clip=1.0)
    wanted, found = (updates_of("serial", where, "convnet", training=training) for where in (CPU, device))
    for name, update in wanted.items():
        assert distance(found[name].delta, update.delta) < 5 * TOLERANCE  # Adam enlarges gradients near 0


@pytest.mark.parametrize(("dtype", "most"), [("tf32", 0.1), ("bf16", 0.7)])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_rounded_precision_is_close_and_not_equal(device, engine, dtype, most):
    wanted = updates_of(engine, device, "convnet")
    found = updates_of(engine, device, "convnet", dtype=dtype)
    distances = [distance(found[name].delta, update.delta) for name, update in wanted.items()]
    assert 0 < max(distances) < most
    updates_of(engine, device, "mlp")  # a trainer in float32 sets the precision of the process back
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def waits_in(call):
    """Where the process waited for the device, by file and line."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{one.filename}:{one.lineno}" for one in seen if "called a synchronizing" in str(one.message)]


@pytest.mark.parametrize(
    "training", [SETTINGS, replace(SETTINGS, clip=1.0), replace(SETTINGS, optimizer="adamw")]
)
@pytest.mark.parametrize(
    ("engine", "method"),
    [
        ("serial", "fedavg"),
        ("serial", "fedprox"),
        ("serial", "ditto"),
        ("stacked", "fedavg"),
        ("stacked", "fedbn"),
    ],
)
@pytest.mark.parametrize("eager", [0, 10**9])
def test_no_step_waits_for_the_gpu(device, engine, method, training, eager, monkeypatch):
    """A round of three epochs waits as often as one of one epoch, once its graphs are made."""
    monkeypatch.setattr(recorded, "EAGER_STEPS", eager)
    if engine == "stacked" and training.clip:
        pytest.skip("gradients that are clipped are not stacked")
    waits = {}
    for epochs in (1, 3):
        trainer = trainer_on(device, "convnet", method, replace(training, epochs=epochs))
        silos, task = silos_of(trainer, five("convnet")), None
        task = task_of(trainer, silos[0])
        for repeat in range(2):  # the first call loads libraries
            call = lambda: dict(ENGINES[engine](trainer).each(Fit(task), silos))  # noqa: B023, E731
            waits[epochs] = waits_in(call) if repeat else call() and []
    assert waits[1]
    assert sorted(waits[3]) == sorted(waits[1])


def test_private_steps_are_those_of_the_cpu(device, tmp_path):
    """With little noise, so that it hides no difference."""
    deltas = []
    for where in (CPU, device):
        trainer = replace(bench_of("fedavg"), device=where)
        silo = silo_of(trainer, tmp_path, noise="reproducible")
        training = replace(silo.guarantee.training, noise_multiplier=1e-3)
        silo.guarantee = replace(silo.guarantee, training=training)
        deltas.append(trainer.fit_unaccounted(silo, private_task_of(trainer)).delta)
    assert distance(deltas[1], deltas[0]) < TOLERANCE


@pytest.mark.parametrize("count", [1, 7, 3 * CHUNK + 1])
def test_noise_on_a_gpu_is_that_of_the_cpu(device, count):
    """Math libraries round differently, by a grain at most."""
    total = torch.linspace(-3, 3, count, dtype=torch.float64)
    wanted = Noise.reproducible(1).add(total, 0.3)
    found = Noise.reproducible(1).add(total.to(device), 0.3)
    assert found.device.type == "cuda"
    assert (found.cpu() - wanted).abs().max() <= 2 * grain(0.3)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_memory_of_a_federation_is_freed(device, engine):
    updates_of(engine, device, "mlp")  # cuBLAS keeps a workspace
    gc.collect()
    before = torch.cuda.memory_allocated()
    updates_of(engine, device, "convnet")
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_rows_stay_on_the_gpu_between_rounds(device, monkeypatch):
    """The rows of a stack are copied once; where they would take too much of its memory, in each round."""
    trainer = trainer_on(device, "mlp")
    silos = silos_of(trainer, five("mlp"))
    task = task_of(trainer, silos[0])
    engine = Stacked(trainer, 5)
    kept = []
    for _ in range(2):
        dict(engine.each(Fit(task), silos))
        kept.append([id(rows.train.x) for rows in engine._rows.values()])
    assert len(kept[0]) == 1
    assert kept[0] == kept[1]
    monkeypatch.setattr("fedtl.training.batches.MAX_SHARE_OF_GPU", 0.0)
    small = Stacked(trainer, 5)
    dict(small.each(Fit(task), silos))
    assert not small._rows


def test_the_number_of_a_device_is_refused(device):
    assert choose_device("auto") == choose_device("cuda") == "cuda"
    with pytest.raises(ConfigError, match="cuda:1"):
        choose_device("cuda:1")
