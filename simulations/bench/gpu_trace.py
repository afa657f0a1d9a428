"""What a GPU does during a call: waits of the process for it, the share of the time that it computes, and its memory."""

import cProfile
import pstats
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# What makes the process wait until the GPU has finished, by the names of CUDA's and torch's own functions.
WAITS = (
    *("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"),
    *("aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero"),
)


@dataclass(frozen=True)
class Trace:
    """``waits``: how often each of WAITS was called. ``kernels``: how many ran on the GPU, for ``gpu_seconds``."""

    waits: dict[str, int]
    kernels: int
    gpu_seconds: float
    launches: int


def trace(call: Callable[[], object], device: torch.device) -> Trace:
    """Return what the profiler sees of a call, which has been made once before."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, acc_events=True) as seen:
        call()
        wait_for(device)
    waits = dict.fromkeys(WAITS, 0)
    kernels = launches = 0
    microseconds = 0.0
    for event in seen.events():
        if event.name in waits:
            waits[event.name] += 1
        launches += event.name in (
            "cudaLaunchKernel",
            "cudaLaunchKernelExC",
            "cuLaunchKernel",
            "cuLaunchKernelEx",
        )
        if "CUDA" in str(event.device_type):
            kernels += 1
            microseconds += event.time_range.elapsed_us()
    if device.type == "cuda":
        waits["cudaDeviceSynchronize"] -= 1  # the one above
    return Trace(waits, kernels, microseconds / 1e6, launches)


def waits_per_step(
    few: Callable[[], object], many: Callable[[], object], more_steps: int, device: torch.device
) -> dict[str, float]:
    """
    Return how often a step waits, by the difference between two calls of which the second takes ``more_steps`` steps more: what a
    round does once is in both.
    """
    for call in (few, many):
        call()
    before, after = trace(few, device), trace(many, device)
    return {name: (after.waits[name] - before.waits[name]) / more_steps for name in WAITS}


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    clock = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - clock


def peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Return the most memory that torch's tensors took on the GPU during a call; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    wait_for(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


@dataclass
class Utilisation:
    """
    The share of the time in which some kernel ran, by the driver (nvidia-smi's "utilization.gpu"), asked ten times a second within the
    ``with`` block; ``percent`` is None where the driver cannot be asked.
    """

    device: torch.device
    values: list[int] = field(default_factory=list)
    problem: str = ""

    def __enter__(self) -> "Utilisation":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def percent(self) -> float | None:
        return mean(self.values) if self.values else None

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            try:
                self.values.append(torch.cuda.utilization(self.device))
            except Exception as error:  # pynvml is missing, or the driver refuses
                self.problem = f"{type(error).__name__}: {error}"[:200]
                return


def slowest_functions(call: Callable[[], object], count: int = 12) -> list[str]:
    """Return in which Python functions a call spends its time: seconds of the function alone, number of calls, name."""
    profiler = cProfile.Profile()
    profiler.runcall(call)
    own = {name: (its[2], its[0]) for name, its in pstats.Stats(profiler).stats.items()}  # type: ignore[attr-defined]
    slowest = sorted(own.items(), key=lambda one: -one[1][0])[:count]
    return [
        f"{seconds:.4f} s, {calls} calls: {Path(file).name}:{line} {name}"
        for (file, line, name), (seconds, calls) in slowest
    ]


def busy(call: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Return the figures of one call: its time, the share in which the GPU computed, and its kernels."""
    seconds, seen = seconds_of(call, device), trace(call, device)
    return {
        "seconds": seconds,
        "kernels": seen.kernels,
        "launches": seen.launches,
        "gpu_seconds": seen.gpu_seconds,
        "share_of_time_computing": seen.gpu_seconds / seconds,
        "waits": {name: count for name, count in seen.waits.items() if count},
    }
