"""
The simulation of Flower as a contender. The last line that this script prints holds the seconds of each round as JSON.

Its strategy records the start and end of each round and measures the floor between rounds. Two modes:

- as documented: a train and an evaluate message per round, default memory format;
- best case: the client evaluates before it trains, so one message per round, and channels_last.

An error reply would make a round look fast, so it ends the script.
"""

import argparse
import json
import logging
import os
import time
import warnings
from collections.abc import Iterable

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

import floor
import flower_client
import loads
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


class Timed(FedAvg):
    """FedAvg that measures each round, and a round of the floor between rounds while the actors are idle."""

    def __init__(self, best: bool, silos: int, yardstick: floor.Yardstick) -> None:
        super().__init__(
            fraction_evaluate=0.0 if best else 1.0,
            min_train_nodes=silos,
            min_evaluate_nodes=silos,
            min_available_nodes=silos,
        )
        self.best, self.yardstick = best, yardstick
        self.began: list[float] = []
        self.ended: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.yardstick.measure()
        self.began.append(time.perf_counter())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        found = super().aggregate_train(server_round, self._whole(replies))
        if self.best:
            self.ended.append(time.perf_counter())
        return found

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        if self.best:
            return None
        found = super().aggregate_evaluate(server_round, self._whole(replies))
        self.ended.append(time.perf_counter())
        return found

    def _whole(self, replies: Iterable[Message]) -> list[Message]:
        replies = list(replies)
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
        if len(replies) != self.min_train_nodes:
            raise RuntimeError(f"{len(replies)} replies of {self.min_train_nodes}")
        return replies


def run(load: loads.Load, best: bool, rounds: int, at_once: int) -> dict[str, object]:
    """Return the seconds of each round except the first, in which Ray and its actors start."""
    yardstick = floor.Yardstick(load)
    strategy = Timed(best, load.silos, yardstick)
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        return flower_client.train(message, context, load, best)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return flower_client.evaluate(message, context, load, best)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(
            grid, ArrayRecord(flower_client.floats(floor.model(load, floor.NAIVE))), num_rounds=rounds + 1
        )

    began = time.perf_counter()
    settings = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": at_once}}
    run_simulation(server, client, load.silos, backend_config=settings)
    seconds = [end - start for start, end in zip(strategy.began, strategy.ended, strict=True)]
    if len(seconds) != rounds + 1:
        raise SystemExit(f"Flower ran {len(seconds)} of {rounds + 1} rounds")
    return {
        "seconds": seconds[1:],
        "beside": yardstick.seconds[1:],
        "first_round": strategy.ended[0] - began,
        "at_once": at_once,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", choices=list(loads.LOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(json.dumps(run(loads.by_name(given.load, given.quick), given.best, given.rounds, given.at_once)))


if __name__ == "__main__":
    main()
