"""What ``gpu.py`` measures: federations, private rounds, single steps and audits, on one device."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from loads import CLASSES, Load
from torch import Tensor, nn
from with_fedtl import Fedtl, make_trainer

from fedtl import audit, load_experiment, run
from fedtl.data.origins import DECLARED
from fedtl.experiment.privacy_plan import row_hashes
from fedtl.messages import Task, Update
from fedtl.models.registry import with_private_norms
from fedtl.privacy import taint
from fedtl.privacy.budget import Budget
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.guarantee import PrivacyGuarantee, PrivateTraining, ProtectedUnits, Releases
from fedtl.privacy.ledger import LedgerAccount
from fedtl.simulation import stacked
from fedtl.simulation.engine import Fit
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from fedtl.simulation.stacked_net import stack_of
from fedtl.tasks.classification import CLASSIFICATION
from fedtl.training import recorded
from fedtl.training.batches import in_batches
from fedtl.training.loop import moving_in
from fedtl.training.recorded import OrdinarySteps
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

STACK = 64
GPU_LOADS: dict[str, Load] = {
    load.name: load
    for load in (
        Load("mlp", "mlp", (1, 8, 8), silos=64, rows=224, val_rows=64),
        Load("convnet", "convnet", (3, 28, 28), silos=64, rows=256, val_rows=64),
        Load("resnet18", "torchvision/resnet18", (3, 64, 64), silos=8, rows=64, val_rows=32, lr=0.01),
    )
}
# The largest relative distance |a - b| / |b| between the update of one round on a GPU and on a CPU, b, by the precision. The
# rounding of a sum in another order, 1e-7, grows over the steps: where a ReLU changes sides, a gradient jumps.
TOLERANCES = {"float32": 1e-2, "tf32": 5e-2, "bf16": 0.5}


def by_name(name: str, quick: bool) -> Load:
    load = GPU_LOADS[name]
    return replace(load, silos=3, rows=64, val_rows=32) if quick else load


def federation(load: Load, device: torch.device, stack: int, dtype: str = "float32") -> Fedtl:
    """Return a federation whose ``round`` is a whole round, the server's mean included."""
    return Fedtl(load, 1, stack, make_trainer(load, device, dtype))


@contextmanager
def without_graphs() -> Iterator[None]:
    """Launch each kernel by itself while the block lasts."""
    known = recorded.KNOWN_LAYERS
    recorded.KNOWN_LAYERS = {}
    try:
        yield
    finally:
        recorded.KNOWN_LAYERS = known


@dataclass(frozen=True)
class WithoutGraphs:
    """A federation whose steps do not become CUDA graphs."""

    federation: Fedtl

    def round(self) -> None:
        with without_graphs():
            self.federation.round()

    def close(self) -> None:
        self.federation.close()


def steps_of(load: Load, epochs: int = 1) -> int:
    """Return the number of steps of one silo in a round."""
    return epochs * len(in_batches(torch.arange(load.rows), load.batch))


def one_round(
    load: Load, device: torch.device, stack: int, dtype: str = "float32", epochs: int = 1
) -> Callable[[], list[Update]]:
    """Return a function that does the same first round each time, and returns the silos' updates."""
    trainer = make_trainer(load, device, dtype, epochs)
    shared, local = trainer.partition.split(trainer.initial(len(CLASSES)))
    data = {name: load.data(name) for name in load.names()}
    engine = Stacked(trainer, stack) if stack > 1 else Serial(trainer)

    def once() -> list[Update]:
        silos = [Silo(name, its, dict(local), b"bench") for name, its in data.items()]
        results = [result for _, result in engine.each(Fit(Task("bench", 1, 3, 0, shared)), silos)]
        if failed := [one for one in results if not isinstance(one, Update)]:
            raise failed[0]
        return results

    return once


def distance(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Return |found - wanted| / |wanted| over all tensors of floats together."""
    names = [name for name, tensor in wanted.items() if tensor.is_floating_point()]
    apart = torch.stack([(found[name].double() - wanted[name].double()).norm() for name in names]).norm()
    return float(apart / torch.stack([wanted[name].double().norm() for name in names]).norm())


def largest_distance(found: list[Update], wanted: list[Update]) -> float:
    return max(distance(one.delta, other.delta) for one, other in zip(found, wanted, strict=True))


@dataclass(frozen=True)
class PrivateRound:
    """
    A private round of ``steps`` steps of about ``load.batch`` rows at one silo, with ``canaries`` or none. Sampling and noise are
    reproducible, so that devices can be compared.
    """

    load: Load
    device: torch.device
    steps: int
    folder: Path
    canaries: int = 0

    def trainer(self) -> Trainer:
        trainer = make_trainer(self.load, self.device)
        method = replace(trainer.method, exact_statistics="never")
        return replace(trainer, spec=with_private_norms(trainer.spec), method=method)

    def silo(self, trainer: Trainer) -> Silo:
        data = replace(self.load.data(self.load.names()[0]), origins=DECLARED)
        rows = len(data.train)
        account = LedgerAccount(
            self.folder / "ledger.sqlite", "bench", row_hashes(data, b"key"), Budget(8.0, 1e-5)
        )
        training = PrivateTraining(1.0, 1.0, min(1.0, self.load.batch / rows), (self.steps,), 1)
        planted = Canaries(self.canaries, 0, self.folder) if self.canaries else None
        guarantee = PrivacyGuarantee(
            account, ProtectedUnits(rows), training, Releases(), 8.0, 1e-5, seed=0, canaries=planted
        )
        _, local = trainer.partition.split(trainer.initial(len(CLASSES)))
        return Silo("silo", data, local, b"bench", guarantee, taint.untrained_labels(trainer.partition.roles))

    def ready(self) -> tuple[Callable[[], Update], Trainer]:
        """Return a function that does the round, and its trainer."""
        trainer = self.trainer()
        silo = self.silo(trainer)
        shared, local = trainer.partition.split(trainer.initial(len(CLASSES)))
        task = Task("bench", 1, 1, 0, shared)

        def once() -> Update:
            silo.local = dict(local)
            return trainer.fit_unaccounted(silo, task)

        return once, trainer


def plain_round(load: Load, device: torch.device, steps: int) -> Callable[[], Update]:
    """Return the same steps without privacy, of the model with its own norms."""
    one = replace(load, silos=1, rows=steps * load.batch)
    once = one_round(one, device, 1)
    return lambda: once()[0]


@dataclass
class Steps:
    """One step of SGD with momentum of a net on a fixed batch of ``rows`` rows, in the ways that torch offers."""

    load: Load
    device: torch.device

    def __post_init__(self) -> None:
        self.net = self.load.model_spec().net(len(CLASSES)).to(self.device).train()
        if self.device.type == "cuda" and len(self.load.shape) == 3:
            self.net = self.net.to(memory_format=torch.channels_last)
        self.x = torch.randn(self.load.batch, *self.load.shape, device=self.device)
        self.y = torch.randint(len(CLASSES), (self.load.batch,), device=self.device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=self.load.lr, momentum=0.9, foreach=True)

    def step(self, net: Callable[[Tensor], Tensor] | None = None) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy((net or self.net)(self.x), self.y).backward()
        self.optimizer.step()

    def compiled(self) -> Callable[[], None]:
        """Return the step with the forward and backward pass by ``torch.compile``."""
        compiled: nn.Module = torch.compile(nn.Sequential(self.net.body, self.net.head))
        return lambda: self.step(compiled)


@dataclass
class StackStep:
    """One step of all the load's silos in one stack, on a fixed batch of each."""

    load: Load
    device: torch.device

    def __post_init__(self) -> None:
        trainer, silos, batch = make_trainer(self.load, self.device), self.load.silos, self.load.batch
        state, task = trainer.initial(len(CLASSES)), Task("bench", 1, 3, 0, {})
        net = stack_of(trainer.net(len(CLASSES)), [state] * silos)
        trainer.loop.prepare(net, trainer.method.phases[0])
        optimizer = trainer.loop.optimizer(moving_in(net), task)
        x = torch.randn(silos, batch, *self.load.shape, device=self.device)
        y = torch.randint(len(CLASSES), (silos, batch), device=self.device)
        tensors = net.state_dict(keep_vars=True)
        batch = (x, y, None)
        self.step = partial(
            stacked._step, trainer, net, tensors, optimizer, OrdinarySteps(), CLASSIFICATION, batch
        )


def graphed(step: Callable[[], None]) -> Callable[[], None]:
    """Return the step as a CUDA graph, which needs the same shapes in each step."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def audited(device: torch.device, workers: int, quick: bool) -> dict[str, Any]:
    """Run a private experiment on the digits of scikit-learn and audit it; return the seconds of both and the verdict."""
    settings: dict[str, Any] = {"rounds": 2, "seed": 0}
    settings["privacy"] = {"epsilon": 8.0, "tuning": "public"}
    settings["audit"] = {"canaries": 200, "transcript": 2}
    settings["method"] = {"tune": {"epochs": 0}, "choose": {"candidates": ["tuned"]}}
    settings["data"] = {"limit": 40 if quick else 100, "silos": ["plain", "faint"]}
    with tempfile.TemporaryDirectory() as folder:
        clock = time.perf_counter()
        experiment = load_experiment("digits", **settings)
        finished = run(experiment, out=Path(folder) / "run", device=device.type, workers=workers)
        trained = time.perf_counter()
        result = audit(finished, quick=True, device=device.type).result
        ended = time.perf_counter()
    return {"run_seconds": trained - clock, "audit_seconds": ended - trained, "verdict": result.verdict}
