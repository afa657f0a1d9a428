"""
Measure fedtl on a GPU: one silo after another and 64 silos in one stack, private rounds, single steps, and an audit.

    .venv/bin/python simulations/bench/gpu.py
    python simulations/bench/gpu.py --device cpu --quick          # only whether it runs

Needs neither Flower nor Ray. Contenders take rounds in turn. A part that fails does not end the others; the JSON file is written after
each part. What one round computes is compared with the same round on the CPU.
"""

import argparse
import json
import logging
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import gpu_loads
import gpu_trace
import machine
import torch
from gpu_report import report
from loads import Load
from measure import HERE, side_by_side

from fedtl.models import precision
from fedtl.privacy.noise import Noise
from fedtl.training.threads import set_threads
from fedtl.training.trainer import CPU

SERIAL, STACKED = "one after another", f"stack of {gpu_loads.STACK}"
FEW = 3  # silos of a comparison with the CPU
PARTS = ("silos", "private", "precision", "steps", "audit")
SECONDS = 60  # for one part of one model
TOTAL = 300  # for everything
NOTES = (
    "A round: each silo evaluates the received model on its validation rows and trains one epoch; then the plain mean, on the CPU.",
    "distance: |update on the device - update on the CPU| / |update on the CPU| over all tensors, the largest of the silos.",
    "waits per step: of the process for the GPU, by the profiler: (waits of 3 epochs - waits of 1 epoch) / steps of 2 epochs.",
    "share computing: kernel seconds by the profiler / seconds of the same round without it. utilisation: what the driver says.",
)


class OutOfTime(BaseException):
    """A part took more than its seconds. No Exception, which an engine would take for the failure of a silo."""


class Noted(logging.Handler):
    """Collects warnings: a stack that fails is trained one after another, and its time is then not that of a stack."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        problem = "" if record.exc_info is None else f" ({record.exc_info[1]!r})"
        self.lines.append((record.getMessage()[-200:] + problem)[:600])


class Bench:
    """The measurements on one device; each method is a part of one load."""

    def __init__(self, device: torch.device, quick: bool, repeats: int) -> None:
        self.device, self.quick, self.repeats = device, quick, repeats

    def silos(self, load: Load) -> dict[str, Any]:
        """Serial and stacked rounds: times in turn, memory, utilisation, waits, and the distance from the CPU."""
        ways, few = {SERIAL: 1, STACKED: gpu_loads.STACK}, replace(load, silos=FEW)
        wanted = gpu_loads.one_round(few, CPU, 1)()
        found: dict[str, Any] = {}
        for who, stack in ways.items():
            once = {epochs: gpu_loads.one_round(few, self.device, stack, epochs=epochs) for epochs in (1, 3)}
            at_once = 1 if stack > 1 else FEW
            more = (gpu_loads.steps_of(load, 3) - gpu_loads.steps_of(load)) * at_once
            found[who] = {
                "distance": gpu_loads.largest_distance(once[1](), wanted),
                "waits_per_step": gpu_trace.waits_per_step(once[1], once[3], more, self.device),
                "three_silos": gpu_trace.busy(once[1], self.device),
            }
        made = {who: gpu_loads.federation(load, self.device, stack) for who, stack in ways.items()}
        repeats = min(3, self.repeats) if load.name == "resnet18" else self.repeats
        plain = {f"{who}, without graphs": its for who, its in self._without_graphs(load, ways).items()}
        times, _ = side_by_side(made | plain, [], repeats, SERIAL, lambda text: None)
        for who, federation in made.items():
            found[who] |= {"seconds": list(times[who].seconds)} | self._figures(
                federation.round, times[who].median
            )
            federation.close()
        pairs = zip(times[SERIAL].seconds, times[STACKED].seconds, strict=True)
        result = {"load": asdict(load), "ways": found, "serial_over_stacked": median(a / b for a, b in pairs)}
        for name, federation in plain.items():
            result[name] = list(times[name].seconds)
            federation.close()
        return result

    def _without_graphs(self, load: Load, ways: dict[str, int]) -> dict[str, gpu_loads.WithoutGraphs]:
        if self.device.type != "cuda":
            return {}
        return {
            who: gpu_loads.WithoutGraphs(gpu_loads.federation(load, self.device, stack))
            for who, stack in ways.items()
        }

    def _figures(self, call: Callable[[], object], seconds: float) -> dict[str, Any]:
        with gpu_trace.Utilisation(self.device) as used:
            for _ in range(max(1, round(1.5 / seconds)) if self.device.type == "cuda" else 1):
                call()
        return {
            "peak_mib": gpu_trace.peak_mib(call, self.device),
            "utilisation_percent": used.percent,
            "utilisation_problem": used.problem,
            "where": gpu_trace.slowest_functions(call),
        }

    def private(self, load: Load) -> dict[str, Any]:
        """Private and plain rounds of the same steps: times in turn, waits, the noise alone, and the distance from the CPU."""
        steps = 3 if self.quick else 8
        with tempfile.TemporaryDirectory() as folder:
            rounds = {
                count: gpu_loads.PrivateRound(load, self.device, count, Path(folder))
                for count in (steps, 3 * steps)
            }
            wanted, _ = replace(rounds[steps], device=CPU).ready()
            (once, trainer), (longer, _) = (rounds[count].ready() for count in rounds)
            watched, _ = replace(rounds[steps], canaries=50).ready()
            found = {"distance": gpu_loads.distance(once().delta, wanted().delta)}
            found |= {"waits_per_step": gpu_trace.waits_per_step(once, longer, 2 * steps, self.device)}
            plain = gpu_loads.plain_round(load, self.device, steps)
            times = self._in_turn({"private": once, "plain": plain, "private, 50 canaries": watched})
            found |= {"steps": steps, "seconds": times, "busy": gpu_trace.busy(once, self.device)}
            found |= {"peak_mib": gpu_trace.peak_mib(once, self.device)}
        found["method"] = [method.__name__ for method in trainer.cache.gradient_methods.values()]
        ratios = zip(times["private"], times["plain"], strict=True)
        return found | {"private_over_plain": median(a / b for a, b in ratios), "noise": self._noise(load)}

    def _noise(self, load: Load) -> dict[str, float]:
        """Return the seconds of one step's noise on the device and on the CPU."""
        count = sum(weight.numel() for weight in load.model_spec().net(10).parameters())
        totals, noise = (
            {device.type: torch.zeros(count, device=device) for device in (CPU, self.device)},
            Noise(),
        )
        seconds: dict[str, float] = {"numbers": count}
        for name, total in totals.items():
            noise.add(total, 1.0)
            seconds[name] = gpu_trace.seconds_of(lambda total=total: noise.add(total, 1.0), self.device)
        return seconds

    def precision(self, load: Load) -> dict[str, Any]:
        """Rounds of a stack in each precision: times in turn, and the distance from float32 on the CPU."""
        few = replace(load, silos=FEW)
        wanted = gpu_loads.one_round(few, CPU, 1)()
        dtypes = [name for name in precision.DTYPES if self.device.type == "cuda" or name != "tf32"]
        found: dict[str, Any] = {"distance": {}}
        rounds = {}
        for dtype in dtypes:
            found["distance"][dtype] = gpu_loads.largest_distance(
                gpu_loads.one_round(few, self.device, 1, dtype)(), wanted
            )
            once = gpu_loads.federation(load, self.device, gpu_loads.STACK, dtype).round
            rounds[dtype] = lambda once=once, dtype=dtype: (
                precision.set_precision(dtype, self.device),
                once(),
            )
        found["seconds"] = self._in_turn(rounds)
        precision.set_precision("float32", self.device)
        return found

    def steps(self, load: Load) -> dict[str, Any]:
        """Would CUDA graphs and torch.compile pay? Milliseconds of a plain step and of a step of the whole stack."""
        ready = gpu_loads.Steps(load, self.device)
        ways: dict[str, Callable[[], Callable[[], None]]] = {"plain": lambda: ready.step}
        ways |= {"stack": lambda: gpu_loads.StackStep(load, self.device).step}
        if self.device.type == "cuda":
            ways |= {
                "plain, CUDA graph": lambda: gpu_loads.graphed(gpu_loads.Steps(load, self.device).step),
                "stack, CUDA graph": lambda: gpu_loads.graphed(gpu_loads.StackStep(load, self.device).step),
                "plain, torch.compile": lambda: gpu_loads.Steps(load, self.device).compiled(),
            }
        count, found = 3 if self.quick else 30, {}
        for name, make in ways.items():
            try:
                step = make()
                first = gpu_trace.seconds_of(step, self.device)
                step()
                taken = [
                    gpu_trace.seconds_of(lambda step=step: repeat(step, count), self.device) for _ in range(3)
                ]
                found[name] = {"first_seconds": first, "ms": 1000 * median(taken) / count}
            except Exception as error:
                found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        return found

    def audit(self, load: Load) -> dict[str, Any]:
        """A private run on digits and its audit, on the device and on the CPU with a worker for each core."""
        found = {"device": gpu_loads.audited(self.device, 1, self.quick)}
        if self.device.type == "cuda":
            found["cpu"] = gpu_loads.audited(CPU, machine.cores(), self.quick)
        return found

    def _in_turn(self, rounds: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
        taken: dict[str, list[float]] = {name: [] for name in rounds}
        for call in rounds.values():
            call()
        for _ in range(self.repeats):
            for name, call in rounds.items():
                taken[name].append(gpu_trace.seconds_of(call, self.device))
        return taken


def repeat(step: Callable[[], object], count: int) -> None:
    for _ in range(count):
        step()


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds."""

    def stop(*_: object) -> None:
        raise OutOfTime(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def describe_gpu(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    its = torch.cuda.get_device_properties(device)
    return {
        "gpu": its.name,
        "gpu_memory_gib": round(its.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny loads, for a test; the times mean nothing")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument(
        "--models", default=",".join(gpu_loads.GPU_LOADS), help="models, with commas between them"
    )
    parser.add_argument("--repeats", type=int, help="rounds of each contender; default: 5")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="the most for one part of one model")
    parser.add_argument(
        "--total", type=int, default=TOTAL, help="the most for everything; other parts are left out"
    )
    parser.add_argument("--out", type=Path, metavar="JSON")
    given = parser.parse_args()
    given.only, given.models = given.only.split(","), given.models.split(",")
    for value, known in ((given.only, PARTS), (given.models, gpu_loads.GPU_LOADS)):
        if unknown := set(value) - set(known):
            parser.error(f"{sorted(unknown)[0]}: choose from {', '.join(known)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device; --device cpu --quick shows whether the script runs")
    given.repeats = given.repeats or (2 if given.quick else 5)
    return given


def main() -> int:
    given = arguments()
    set_threads(1 if given.quick else machine.cores())
    device, now = torch.device(given.device), datetime.now(UTC)
    path = given.out or HERE / f"{machine.slug()}-gpu-{now:%Y-%m-%d}.json"
    logging.getLogger("fedtl").addHandler(noted := Noted())
    bench = Bench(device, given.quick, given.repeats)
    result: dict[str, Any] = {
        "date": f"{now:%Y-%m-%d}",
        "machine": machine.description() | describe_gpu(device),
    }
    result |= {"notes": NOTES, "tolerances": gpu_loads.TOLERANCES, "parts": {}, "failed": {}, "seconds": {}}
    jobs = [(part, model) for part in PARTS if part in given.only for model in given.models]
    for part, model in [job for job in jobs if job[0] != "audit"] + [
        job for job in jobs if job[0] == "audit"
    ][:1]:
        name = part if part == "audit" else f"{part}: {model}"
        print(name, file=sys.stderr, flush=True)
        clock = datetime.now(UTC)
        left = given.total - (clock - now).total_seconds()
        try:
            if left < 5:
                raise OutOfTime(f"not begun: --total {given.total} seconds are over")
            with at_most(min(given.seconds, int(left))):
                result["parts"][name] = getattr(bench, part)(gpu_loads.by_name(model, given.quick))
        except (Exception, OutOfTime) as error:
            traceback.print_exc()
            result["failed"][name] = f"{type(error).__name__}: {error}"[:1000]
        result["seconds"][name] = (datetime.now(UTC) - clock).total_seconds()
        result["warnings"] = noted.lines
        path.write_text(json.dumps(result, indent=1) + "\n")
    report(result)
    print(f"wrote {path}", file=sys.stderr)
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
