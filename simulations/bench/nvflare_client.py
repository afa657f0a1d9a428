"""A silo in the simulator of NVIDIA FLARE: the plain loop of ``floor`` within its client API. Started by ``with_nvflare.py``."""

import argparse
import json
import time
from pathlib import Path

import floor
import loads
import nvflare.client as flare
import torch
from torch import nn


class Model(nn.Module):
    """The load's net under a name by which the simulator can create it."""

    def __init__(self, load: str, quick: bool) -> None:
        super().__init__()
        self.net = floor.model(loads.by_name(load, quick), floor.NAIVE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.net(x)
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", choices=list(loads.LOADS))
    parser.add_argument("folder", type=Path, help="of the times at which models came")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    load, model = loads.by_name(given.load, given.quick), Model(given.load, given.quick)
    flare.init()
    site = flare.get_site_name()
    data = load.data(load.names()[int(site.removeprefix("site-")) - 1])
    while flare.is_running():
        received = flare.receive()
        with (given.folder / f"{site}.jsonl").open("a") as times:
            times.write(json.dumps([received.current_round, time.monotonic()]) + "\n")
        model.load_state_dict(received.params)
        metrics = floor.validate(model.net, data.val, floor.NAIVE)
        floor.train(model.net, data.train, load, floor.NAIVE)
        meta = {"NUM_STEPS_CURRENT_ROUND": len(data.train)}
        flare.send(flare.FLModel(params=model.cpu().state_dict(), metrics=metrics, meta=meta))


if __name__ == "__main__":
    main()
