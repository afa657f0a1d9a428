"""The ServerApp of Flower alone: FedAvg that notes when each round began and ended."""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from clients.app import LOAD, floats, make_model

app = ServerApp()


class Timed(FedAvg):
    def __init__(self) -> None:
        sites = LOAD["sites"]
        super().__init__(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        self.began: list[float] = []
        self.ended: list[float] = []
        self.replies: list[int] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.began.append(time.monotonic())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        valid = [reply for reply in replies if not reply.has_error()]
        found = super().aggregate_train(server_round, valid)
        self.replies.append(len(valid))
        self.ended.append(time.monotonic())
        self.write()
        return found

    def write(self) -> None:
        """After each round, so that one that takes too long loses only itself."""
        seconds = [end - start for start, end in zip(self.began, self.ended, strict=True)]
        new = Path(LOAD["out"] + ".new")
        new.write_text(json.dumps({"seconds": seconds, "replies": self.replies}))
        os.replace(new, LOAD["out"])


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = Timed()
    strategy.start(grid, ArrayRecord(floats(make_model())), num_rounds=LOAD["rounds"])
