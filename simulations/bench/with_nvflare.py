"""
The simulator of NVIDIA FLARE as a contender. The last line that this script prints holds the seconds of each round as JSON.

NVIDIA FLARE (2.9 was tried) has its own interpreter, with fedtl on its path; its recipe for FedAvg with PyTorch runs
``nvflare_client.py`` for each silo. A round lasts until the first client receives the next model, so the last one has no end and is
not counted. The simulator cannot wait for a round of the floor: the floor is measured before and after it.
"""

import argparse
import json
import os
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import floor
import loads
import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe.sim_env import SimEnv

CLIENT = Path(__file__).with_name("nvflare_client.py")


def run(load: loads.Load, quick: bool, rounds: int, at_once: int) -> dict[str, object]:
    """Return the seconds of each round except the first, in which the clients start."""
    yardstick = floor.Yardstick(load)
    before = (rounds + 1) // 2
    for _ in range(before + 1):
        yardstick.measure()
    with tempfile.TemporaryDirectory() as folder:
        # Tensors of arithmetic only: the counts of BatchNorm are integers, which the recipe would average too.
        recipe = FedAvgRecipe(
            name="bench",
            model={"class_path": "nvflare_client.Model", "args": {"load": load.name, "quick": quick}},
            min_clients=load.silos,
            num_rounds=rounds + 2,
            train_script=str(CLIENT),
            train_args=f"{load.name} {folder}" + (" --quick" if quick else ""),
        )
        recipe.execute(SimEnv(num_clients=load.silos, num_threads=at_once, workspace_root=f"{folder}/work"))
        received = sorted(
            json.loads(line)
            for file in Path(folder).glob("*.jsonl")
            for line in file.read_text().splitlines()
        )
    starts = {number: min(at for one, at in received if one == number) for number, _ in received}
    if len(received) != load.silos * (rounds + 2):
        raise SystemExit(
            f"NVIDIA FLARE trained {len(received)} times, not {load.silos} silos in {rounds + 2} rounds"
        )
    for _ in range(rounds - before):
        yardstick.measure()
    times = [starts[number + 1] - starts[number] for number in sorted(starts)[:-1]]
    return {
        "seconds": times[1:],
        "beside": yardstick.seconds[1:],
        "first_round": times[0],
        "at_once": at_once,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", choices=list(loads.LOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with redirect_stdout(open(os.devnull, "w")):
        result = run(loads.by_name(given.load, given.quick), given.quick, given.rounds, given.at_once)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
