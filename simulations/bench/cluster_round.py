"""
Rounds on two nodes of Ray and on two processes, in turn, from within the first node. Started by ``cluster.py``. The last line that this
script prints holds the seconds of each round and the bytes that crossed the link as JSON.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import loads
import ray
from measure import Times
from with_fedtl import Fedtl

from fedtl.models.state import size_in_bytes
from fedtl.training.threads import set_threads

WORKERS = 2
JOIN_SECONDS = 60.0
LOADS = {
    "mlp": loads.crowd(100),
    "convnet": replace(loads.LOADS["convnet"], silos=100, rows=64, val_rows=16),
}


def wait_for_nodes(address: str) -> None:
    """Connect to the cluster, and wait until both nodes have joined. Raises TimeoutError."""
    ray.init(address, log_to_driver=False)
    end = time.monotonic() + JOIN_SECONDS
    while ray.cluster_resources().get("CPU", 0) < WORKERS:
        if time.monotonic() > end:
            raise TimeoutError(f"after {JOIN_SECONDS:g} s the cluster has {ray.cluster_resources()}")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", choices=list(LOADS))
    parser.add_argument("address")
    parser.add_argument("link", help="the network device to the other node")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    set_threads(1)
    wait_for_nodes(given.address)
    load, counters = LOADS[given.load], Path(f"/sys/class/net/{given.link}/statistics")

    def crossed() -> list[int]:
        return [int((counters / f"{way}_bytes").read_text()) for way in ("tx", "rx")]

    contenders = {"processes": Fedtl(load, WORKERS), "ray": Fedtl(load, WORKERS, address=given.address)}
    states = [
        contender.round() for contender in contenders.values()
    ]  # in which workers start; it does not count
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    bytes_sent: list[list[int]] = []
    for turn in range(given.rounds):
        names = list(contenders)
        for name in names[turn % 2 :] + names[: turn % 2]:
            before, clock = crossed(), time.perf_counter()
            contenders[name].round()
            seconds[name].append(time.perf_counter() - clock)
            if name == "ray":
                bytes_sent.append([after - one for after, one in zip(crossed(), before, strict=True)])
    same = all(bool((states[0][name] == states[1][name]).all()) for name in states[0])
    for contender in contenders.values():
        contender.close()
    times = {name: Times(one, seconds["processes"], in_turn=True) for name, one in seconds.items()}
    print(
        json.dumps(
            {
                "load": given.load,
                **seconds,
                "ratio": times["ray"].over(times["processes"]),
                "sent": [one[0] for one in bytes_sent],
                "received": [one[1] for one in bytes_sent],
                "state": size_in_bytes(states[0]),
                "same_bits": same,
                "median": {name: median(one) for name, one in seconds.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
