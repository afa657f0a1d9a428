"""
The floor: federated averaging as a plain PyTorch loop without a framework.

The Flower clients run the same ``train`` and ``validate``, so that a difference in time comes from the framework.
"""

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from loads import CLASSES, Load
from torch import Tensor, multiprocessing, nn

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.models.state import State
from fedtl.simulation.worker import become_worker

FAST, NAIVE = torch.channels_last, torch.contiguous_format


def plain_round(
    net: nn.Module, shared: State, silos: Sequence[SiloDataset], load: Load, layout: torch.memory_format
) -> State:
    """One round: return the weighted mean of the models that the silos trained from ``shared``."""
    total = sum(len(data.train) for data in silos)
    mean = {name: torch.zeros_like(t) if t.is_floating_point() else t for name, t in shared.items()}
    for data in silos:
        net.load_state_dict(shared)
        validate(net, data.val, layout)
        train(net, data.train, load, layout)
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                mean[name].add_(tensor, alpha=len(data.train) / total)
    return mean


def train(net: nn.Module, rows: Dataset, load: Load, layout: torch.memory_format) -> None:
    """One epoch of SGD."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=load.lr, momentum=load.momentum)
    for batch in torch.randperm(len(rows)).split(load.batch):
        optimizer.zero_grad()
        scores = net(laid_out(rows.x[batch], layout))
        F.cross_entropy(scores, rows.y[batch]).backward()
        optimizer.step()


def laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Return images in the layout, and rows of a table as they are."""
    return x.contiguous(memory_format=layout) if x.dim() == 4 else x


@torch.no_grad()
def validate(net: nn.Module, rows: Dataset, layout: torch.memory_format) -> dict[str, float]:
    net.eval()
    scores = net(laid_out(rows.x, layout))
    accuracy = (scores.argmax(1) == rows.y).float().mean()
    return {"loss": float(F.cross_entropy(scores, rows.y)), "accuracy": float(accuracy)}


class Floor:
    """The plain loop as a contender. Its model is created once and kept between rounds, as for all contenders."""

    def __init__(self, load: Load, layout: torch.memory_format) -> None:
        self.load, self.layout = load, layout
        self.net = model(load, layout)
        self.silos = [load.data(name) for name in load.names()]
        self.shared = {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}

    def round(self) -> State:
        self.shared = plain_round(self.net, self.shared, self.silos, self.load, self.layout)
        return self.shared

    def close(self) -> None:
        pass


class Floors:
    """
    One floor per worker, all at the same time, each in its own process and with a whole round.

    They do not communicate, so the ratio of their time to that of one floor shows how well the machine runs this many
    processes at once. It is 1 if the cores share nothing.
    """

    def __init__(self, load: Load, layout: torch.memory_format, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_beside, args=(theirs, load, layout), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        self.round()

    def round(self) -> None:
        for pipe in self._pipes:
            pipe.send("round")
        for pipe in self._pipes:
            pipe.recv()

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()


def _beside(pipe: Connection, load: Load, layout: torch.memory_format) -> None:
    become_worker(1)
    floor = Floor(load, layout)
    while pipe.recv() is not None:
        floor.round()
        pipe.send("done")


class Yardstick:
    """
    Measures the floor between the rounds of a contender that cannot take turns with others, in the same process.

    Other load on the machine then changes both times, and not their ratio.
    """

    def __init__(self, load: Load) -> None:
        self._floor = Floor(load, FAST)
        self.seconds: list[float] = []

    def measure(self) -> None:
        clock = time.perf_counter()
        self._floor.round()
        self.seconds.append(time.perf_counter() - clock)


def model(load: Load, layout: torch.memory_format) -> nn.Module:
    return load.model_spec().net(len(CLASSES)).to(memory_format=layout)
