"""The performance targets (bars) of fedtl: each is a ratio of the times of two contenders on one load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from measure import Times

FLOOR, NAIVE = "floor", "floor, naive memory format"
CEILING = "floor, as many at once as workers"
FLOWER, FLOWER_BEST = "Flower", "Flower, best case"
PFL, PFL_BEST = "pfl", "pfl, best case"
NVFLARE = "NVIDIA FLARE"
NUMPY = "numpy"  # linear models only
STARTUP = 6.0  # seconds


def fedtl(workers: int) -> str:
    return f"fedtl, {workers} worker{'s' if workers > 1 else ''}"


STACK = 64  # largest number of silos in one stack
STACKED = "fedtl, stacked"


def stacked(workers: int) -> str:
    return f"{STACKED}, {workers} workers"


@dataclass(frozen=True)
class Bar:
    """``who`` takes at least (or at most) ``bound`` times as long as ``over``."""

    load: str
    who: str
    over: str
    bound: float
    at_most: bool = False

    @property
    def claim(self) -> str:
        return f"{self.who} takes at {'most' if self.at_most else 'least'} {self.bound:g} x {self.over}"

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


def bars(workers: int) -> list[Bar]:
    """The targets. ``workers``: the number of cores, at least 2."""
    several = fedtl(workers)
    return [
        Bar("mlp", fedtl(1), FLOOR, 1.5, at_most=True),
        Bar("convnet", fedtl(1), FLOOR, 1.05, at_most=True),
        Bar("convnet", fedtl(1), fedtl(2), 1.85),
        # Each of the simultaneous floors does a whole round, so perfect scaling is 1 / workers.
        Bar("convnet", several, CEILING, round(1.1 / workers, 3), at_most=True),
        Bar("convnet", FLOWER, several, 5),
        Bar("convnet", PFL, several, 4),
        *(Bar(load, other, several, 1) for load in ("mlp", "resnet18") for other in (FLOWER, PFL)),
    ]


def verdicts(load: str, times: Mapping[str, Times], workers: int) -> list[dict[str, object]]:
    """Whether the targets of this load are met, for contenders that ran."""
    found = []
    for bar in bars(workers):
        if bar.load == load and bar.who in times and bar.over in times:
            value = times[bar.who].over(times[bar.over])
            found.append(
                {"load": load, "who": bar.who, "claim": bar.claim, "value": value, "met": bar.met(value)}
            )
    return found


def steps(
    load: str, bound: float, times: Mapping[str, Times], private: str, plain: str
) -> list[dict[str, object]]:
    """Whether a private step is fast enough."""
    bar = Bar(load, private, plain, bound, at_most=True)
    value = times[private].over(times[plain])
    return [{"load": load, "who": private, "claim": bar.claim, "value": value, "met": bar.met(value)}]


def startup(seconds: list[float]) -> dict[str, object]:
    worst = max(seconds)
    return {
        "load": "all",
        "who": "fedtl",
        "claim": f"workers are ready in less than {STARTUP:g} s",
        "value": worst,
        "met": worst < STARTUP,
    }


def crowd(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Whether time and memory per silo are the same with the largest and the smallest number of silos."""
    found: list[dict[str, object]] = []
    for who in dict.fromkeys(row["who"] for row in rows):
        its = sorted((row for row in rows if row["who"] == who and "failed" not in row), key=_silos)
        if len(its) < 2:
            continue
        few, many = its[0], its[-1]
        time = median(m / f for m, f in zip(many["ms_each_turn"], few["ms_each_turn"], strict=True))
        added = 1024 * (many["mib_in_rounds"] - few["mib_in_rounds"]) / (_silos(many) - _silos(few))
        bound = 1.2 * many["kib_local"] + 64
        sizes = f"{_silos(many)} silos against {_silos(few)}"
        for claim, value, limit in (
            (f"{sizes}: time a silo at most x 1.1", time, 1.1),
            (f"{sizes}: KiB a silo at most {bound:.1f}", added, bound),
        ):
            found.append({"load": "all", "who": who, "claim": claim, "value": value, "met": value <= limit})
    return found


def _silos(row: Mapping[str, Any]) -> int:
    return int(row["silos"])
