"""
pfl as a contender. The last line that this script prints holds the seconds of each round as JSON.

pfl 0.6.0 needs an older dp-accounting than fedtl, so it has its own interpreter, with fedtl on its path. Two modes: as
documented (one process, default memory format), and best case (channels_last, and several processes if started with
``python -m torch.distributed.run --nproc-per-node N``).

pfl would also evaluate every training user before and after training. That is switched off; the validation rows of each silo
are evaluated once per round, as for all contenders.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import floor
import loads
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from fedtl.data.dataset import Dataset as SiloRows


class Model(nn.Module):
    """The net with the two methods that pfl requires."""

    def __init__(self, load: loads.Load, layout: torch.memory_format) -> None:
        super().__init__()
        self.net, self.layout = floor.model(load, layout), layout

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.contiguous(memory_format=self.layout))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        self.train()
        return F.cross_entropy(self(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        self.eval()
        scores = self(x)
        right = float((scores.argmax(1) == y).sum())
        loss = float(F.cross_entropy(scores, y, reduction="sum"))
        return {"loss": Weighted(loss, len(y)), "accuracy": Weighted(right, len(y))}


class Averaging(FederatedAveraging):
    """FederatedAveraging that does not evaluate the training users."""

    def get_next_central_contexts(self, *args: Any, **kwargs: Any) -> Any:
        contexts, model, metrics = super().get_next_central_contexts(*args, **kwargs)
        if contexts is None:
            return contexts, model, metrics
        train, *others = contexts
        return (replace(train, do_evaluation=False), *others), model, metrics


class Clock(TrainingProcessCallback):
    """Takes the time of each round, and of a round of the floor between two of them, while other processes wait."""

    def __init__(self, yardstick: floor.Yardstick) -> None:
        self.yardstick = yardstick
        self.seconds: list[float] = []

    def on_train_begin(self, *, model: Any) -> Metrics:
        self._between()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        self.seconds.append(time.perf_counter() - self._began)
        self._between()
        return False, Metrics()

    def _between(self) -> None:
        if os.environ.get("RANK", "0") == "0":
            self.yardstick.measure()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        self._began = time.perf_counter()


def users(load: loads.Load, part: str) -> FederatedDataset:
    """The silos as users of pfl, in turn. Their rows are created before the measurement."""
    rows: dict[str, SiloRows] = {name: getattr(load.data(name), part) for name in load.names()}
    turn = iter(range(10**9))
    names = load.names()
    return FederatedDataset(
        lambda name: Dataset([rows[name].x, rows[name].y], user_id=name),
        lambda: names[next(turn) % len(names)],
    )


def run(load: loads.Load, best: bool, rounds: int) -> dict[str, object]:
    """Return the seconds of each round except the first."""
    inner = Model(load, floor.FAST if best else floor.NAIVE)
    model = PyTorchModel(
        inner,
        local_optimizer_create=partial(torch.optim.SGD, momentum=load.momentum),
        central_optimizer=torch.optim.SGD(inner.parameters(), lr=1.0),
    )
    backend = SimulatedBackend(users(load, "train"), users(load, "val"), [WeightByDatapoints()])
    clock = Clock(floor.Yardstick(load))
    Averaging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds + 1,
            evaluation_frequency=1,
            train_cohort_size=load.silos,
            val_cohort_size=load.silos,
        ),
        backend,
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=load.lr, local_batch_size=load.batch),
        NNEvalHyperParams(local_batch_size=None),
        [clock],
        send_metrics_to_platform=False,
    )
    return {
        "seconds": clock.seconds[1:],
        "beside": clock.yardstick.seconds[1:-1],
        "first_round": clock.seconds[0],
        "at_once": int(os.environ.get("WORLD_SIZE", 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", choices=list(loads.LOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = run(loads.by_name(given.load, given.quick), given.best, given.rounds)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result))


if __name__ == "__main__":
    main()
