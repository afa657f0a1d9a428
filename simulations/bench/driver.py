"""
What one update costs the process that leads a run: its checks, its norm and its part of the mean, without any training.

    .venv/bin/python simulations/bench/driver.py

Bounds how many silos one process can lead: docs/explanation/scale.md.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from statistics import median

import loads
import torch

from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Task, Update
from fedtl.methods.server import ServerStep
from fedtl.models.roles import roles
from fedtl.models.state import State, size_in_bytes
from fedtl.training.threads import set_threads

SILOS, ROUNDS = 20, 5


class Prepared:
    """A federation whose silos have the same update ready."""

    def __init__(self, delta: State) -> None:
        self.delta = delta

    def silos(self) -> Sequence[str]:
        return [f"silo-{number:02d}" for number in range(SILOS)]

    def ask(self, task: Task, silos: Sequence[str]) -> Iterator[Update]:
        for name in silos:
            yield Update(name, task.round, self.delta, 1.0, {"accuracy": 0.5, "loss": 1.0})


def measure(load: loads.Load) -> dict[str, object]:
    """Return the milliseconds an update takes, in the median of ROUNDS rounds after a first one, and its bytes."""
    net = load.model_spec().net(len(loads.CLASSES))
    state = net.state_dict()
    shared = {name: tensor.detach().clone() for name, tensor in state.items() if tensor.is_floating_point()}
    plan = FederationConfig("bench", seed=0, rounds=ROUNDS + 1, server=ServerStep())
    rounds = run_rounds(
        Prepared({name: 0.01 * one for name, one in shared.items()}), plan, ServerState(0, shared), roles(net)
    )
    taken = []
    for _ in range(ROUNDS + 1):
        clock = time.perf_counter()
        next(rounds)
        taken.append(1000 * (time.perf_counter() - clock) / SILOS)
    return {"load": load.name, "bytes": size_in_bytes(shared), "ms": median(taken[1:]), "each": taken[1:]}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    set_threads(1)
    torch.manual_seed(0)
    for name in ("mlp", "convnet", "resnet18"):
        print(json.dumps(measure(loads.LOADS[name])))


if __name__ == "__main__":
    main()
