"""
A round on two machines against a round on one: Ray on two nodes, each with one core and a network of its own, beside two processes.

    sudo .venv/bin/python simulations/bench/cluster.py

Each node is a network namespace of Linux, so that what the nodes send each other crosses a link whose bytes are counted; only root
may make them. Both nodes and the two processes share this machine's two cores, and rounds are taken in turn. The nodes stand in for
machines: their link is as fast as memory, so seconds say what the engine costs, and bytes what a real link would carry. No bar is judged
where the machine is loaded: ``crowding`` says so, before and after.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import bars
import machine
from cluster_round import LOADS, WORKERS
from crowding import crowding
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
NODES = ("fedtl-bench-a", "fedtl-bench-b")
LINKS = ("fedtl-a", "fedtl-b")
ADDRESSES = ("10.211.77.1", "10.211.77.2")
PORT = 6379
START_SECONDS = 60.0
ROUNDS_SECONDS = 1200.0


def call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextmanager
def two_networks() -> Iterator[None]:
    """Make two network namespaces with a link between them, and remove them."""
    try:
        for node in NODES:
            call("ip", "netns", "add", node)
        call(
            "ip",
            "link",
            "add",
            LINKS[0],
            "netns",
            NODES[0],
            "type",
            "veth",
            "peer",
            LINKS[1],
            "netns",
            NODES[1],
        )
        for node, link, address in zip(NODES, LINKS, ADDRESSES, strict=True):
            call("ip", "-n", node, "addr", "add", f"{address}/24", "dev", link)
            for device in (link, "lo"):
                call("ip", "-n", node, "link", "set", device, "up")
        yield
    finally:
        for node in NODES:
            subprocess.run(["ip", "netns", "del", node], capture_output=True)


@contextmanager
def ray_node(number: int, folder: str) -> Iterator[None]:
    """
    Run a node of Ray with one core in a namespace, and end it with all of its processes. ``folder``: of Ray's files, so that no other
    program on this machine takes this cluster for its own.
    """
    head = ADDRESSES[0]
    first = ["--head", f"--port={PORT}", f"--temp-dir={folder}"]
    where = first if number == 0 else [f"--address={head}:{PORT}"]
    ray = [str(Path(sys.executable).with_name("ray")), "start", *where]
    settings = [f"--node-ip-address={ADDRESSES[number]}", "--num-cpus=1", "--include-dashboard=false"]
    settings = settings if number == 0 else settings[:-1]
    command = ["ip", "netns", "exec", NODES[number], *ray, *settings, "--disable-usage-stats", "--block"]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def environment() -> dict[str, str]:
    """Return the environment in which nodes and rounds find fedtl and this folder, with one thread a process."""
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"}


def measure(load: str, rounds: int) -> dict[str, Any]:
    """Return what ``cluster_round.py`` measured in the first node. Raises SystemExit where it failed."""
    script = [sys.executable, str(HERE / "cluster_round.py"), load, f"{ADDRESSES[0]}:{PORT}", LINKS[0]]
    command = ["ip", "netns", "exec", NODES[0], *script, "--rounds", str(rounds)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=ROUNDS_SECONDS)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{load}: failed with exit code {done.returncode}: {done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(lines[-1])
    return measured


def table(measured: Sequence[dict[str, Any]], judged: Sequence[bars.Verdict]) -> Table:
    shown = Table(title="A round of 100 silos, two cores")
    for column in ("load", "two processes", "Ray, two nodes", "ratio", "MB to the other node", "MB back"):
        shown.add_column(column, justify="left" if column == "load" else "right")
    for one, bar in zip(measured, judged, strict=True):
        said = f"not concluded: {bar.why}" if bar.met is None else "met" if bar.met else "NOT MET"
        processes, cluster = (median(one[who]) for who in ("processes", "ray"))
        shown.add_row(
            one["load"],
            f"{processes:.2f} s",
            f"{cluster:.2f} s",
            f"{one['ratio']:.2f} (bar {bars.CLUSTER}: {said})",
            *(f"{median(one[way]) / 1e6:.2f}" for way in ("sent", "received")),
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(LOADS), help=f"some of {', '.join(LOADS)}")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, after one that does not count")
    parser.add_argument("--out", type=Path, metavar="JSON")
    given = parser.parse_args()
    if os.geteuid():
        parser.error("only root may make network namespaces")
    if unknown := set(given.only.split(",")) - LOADS.keys():
        parser.error(f"--only {sorted(unknown)[0]}: the loads are {', '.join(LOADS)}")
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that nodes and namespaces end with this process
    now, about = datetime.now(UTC), machine.description()
    before = crowding(WORKERS, False)
    with ExitStack() as open_:
        folder = open_.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))
        open_.enter_context(two_networks())
        for number in range(len(NODES)):
            open_.enter_context(ray_node(number, folder))
            time.sleep(5)  # the rounds wait until both have joined
        measured = [measure(load, given.rounds) for load in given.only.split(",")]
    beside = max(before, crowding(WORKERS, False))
    judged = bars.cluster({one["load"]: one["ratio"] for one in measured}, beside)
    result = {
        "date": f"{now:%Y-%m-%d}",
        "machine": about,
        "loads": {name: vars(LOADS[name]) for name in given.only.split(",")},
        "measured": measured,
        "bar": bars.CLUSTER,
        "beside": beside,
        "bars": [asdict(verdict) for verdict in judged],
    }
    path = given.out or HERE / f"{machine.slug()}-{now:%Y-%m-%d}-cluster.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    Console(width=None if sys.stdout.isatty() else 140).print(table(measured, judged))
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
