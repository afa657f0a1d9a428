"""The contenders and the performance targets (bars) of fedtl: ratios of the times of two contenders on one load, and times of the start in seconds."""

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
PLAIN, FAST, HOOKS = "plain step", "private step, book-keeping", "private step, Opacus' hooks"
START = "start"  # the part that measures the start-up
HELP, RUN = "fedtl --help", "fedtl run digits, to the first round"
CROWDED = 1.25  # floors at once over one floor, above which the machine is too loaded to judge a bar

NOTES = (
    "A round: each silo evaluates the received model on its validation rows and trains one epoch; then the plain mean.",
    "All contenders except Flower, pfl and NVIDIA FLARE take rounds in turn; a ratio of two of them is the median over the turns.",
    "Flower and pfl each run as one block, in the middle, without their first round, with a round of the floor between rounds.",
    "Their ratio to the floor is measured within the block; their ratio to fedtl is computed from both ratios to the floor.",
    "floor, as many at once as workers: each does a whole round; its ratio to the floor shows how much the cores share.",
    f"Where it is above {CROWDED}, the machine is loaded, and no bar of the load is judged. Parts without it measure it of the "
    "convnet before and after (beside_before, beside_after).",
    "start: a new process each; fedtl run digits until its first round begins, with all that it does by default.",
    "floor: a plain PyTorch loop, channels_last. Flower, pfl and NVIDIA FLARE as documented use the usual memory format.",
    "Flower, best case: channels_last, and evaluation inside the train message, so one message a round, not two.",
    "pfl as documented: one process. Best case: channels_last and as many processes as fedtl's workers.",
    "NVIDIA FLARE: its simulator as documented, with as many threads as workers; the floor is measured before and after it.",
    "FL4Health is not measured: its releases need Python 3.10 or older.",
    "pfl shares only parameters; BatchNorm statistics stay in its one model, which is a little less work than for the others.",
    "mib: anonymous and shared resident memory of the parent (RssAnon + RssShmem), which holds all silos' rows.",
)


def fedtl(workers: int) -> str:
    return f"fedtl, {workers} worker{'s' if workers > 1 else ''}"


STACK = 64  # largest number of silos in one stack
STACKED = "fedtl, stacked"


def stacked(workers: int) -> str:
    return f"{STACKED}, {workers} workers"


@dataclass(frozen=True)
class Verdict:
    """Whether a bar is met: ``value`` is a ratio or seconds. ``met``: None where nothing is concluded, and ``why`` says why."""

    load: str
    who: str
    claim: str
    value: float
    met: bool | None
    why: str = ""


def conclude(load: str, who: str, claim: str, value: float, met: bool, beside: float | None) -> Verdict:
    """
    Return the verdict of a bar. ``beside``: how many times as long as one floor the floors at once took; None: not measured.
    """
    if beside is None or beside <= CROWDED:
        return Verdict(load, who, claim, value, met)
    why = f"floors side by side took {beside:.2f} times as long as one, above {CROWDED:g}"
    return Verdict(load, who, claim, value, None, why)


@dataclass(frozen=True)
class Bar:
    """``who`` takes at least (or at most) ``bound`` times as long as ``over``; or at most ``bound`` seconds, where ``over`` is ""."""

    load: str
    who: str
    over: str
    bound: float
    at_most: bool = False

    @property
    def claim(self) -> str:
        limit = f"{self.bound:g} x {self.over}" if self.over else f"{self.bound:g} s"
        return f"{self.who} takes at {'most' if self.at_most else 'least'} {limit}"

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def judge(self, times: Mapping[str, Times], beside: float | None) -> Verdict | None:
        """Return the verdict; None where a contender of the bar did not run."""
        if self.who not in times or (self.over and self.over not in times):
            return None
        its = times[self.who]
        value = its.over(times[self.over]) if self.over else its.median
        return conclude(self.load, self.who, self.claim, value, self.met(value), beside)


def bars(workers: int) -> list[Bar]:
    """The targets. ``workers``: the number of cores, at least 2."""
    several = fedtl(workers)
    others = (FLOWER_BEST, PFL_BEST, NVFLARE)
    return [
        Bar("mlp", fedtl(1), FLOOR, 1.05, at_most=True),
        Bar("mlp", fedtl(2), FLOOR, 0.6, at_most=True),
        Bar("convnet", fedtl(1), FLOOR, 1.05, at_most=True),
        Bar("convnet", fedtl(1), fedtl(2), 1.85),
        # Each of the simultaneous floors does a whole round, so perfect scaling is 1 / workers.
        Bar("convnet", several, CEILING, round(1.1 / workers, 3), at_most=True),
        Bar("convnet", FLOWER, several, 5),
        Bar("convnet", PFL, several, 4),
        Bar("resnet18", fedtl(2), FLOOR, 0.58, at_most=True),
        *(Bar(load, other, several, 1) for load in ("mlp", "convnet", "resnet18") for other in others),
        *(Bar(load, FAST, PLAIN, bound, at_most=True) for load, bound in STEPS.items()),
        Bar(START, RUN, "", 2.5, at_most=True),
        Bar(START, HELP, "", 0.4, at_most=True),
    ]


STEPS = {  # how many times as long as a plain step a private one takes at most, by the load
    "step of the convnet, 28 px, 32 rows": 1.45,
    "step of the convnet, 8 patients of 4 rows": 2.0,
    "step of the convnet with GroupNorm, 32 rows": 1.45,
    "step of ResNet-18, 32 px, 16 rows": 1.75,
}


def verdicts(
    load: str, times: Mapping[str, Times], workers: int, beside: float | None = None
) -> list[Verdict]:
    """Whether the targets of this load are met, for contenders that ran. ``beside``: as ``conclude``, where no contender says it."""
    if CEILING in times:
        beside = times[CEILING].over(times[FLOOR])
    judged = (bar.judge(times, beside) for bar in bars(workers) if bar.load == load)
    return [verdict for verdict in judged if verdict]


def read_times(contenders: Mapping[str, Mapping[str, Any]]) -> dict[str, Times]:
    """Return the times of a load in a file of results. Files of November 2026 have a plain step "with BatchNorm" in its name."""
    names = {who: PLAIN if who.startswith(PLAIN) else who for who in contenders}
    floors = [its["seconds"] for who, its in contenders.items() if names[who] in (FLOOR, PLAIN, HELP)]
    return {
        names[who]: Times(its["seconds"], its.get("floor_beside") or floors[0], its["in_turn"])
        for who, its in contenders.items()
    }


def crowd(rows: Sequence[Mapping[str, Any]], beside: float | None = None) -> list[Verdict]:
    """Whether time and memory per silo are the same with the largest and the smallest number of silos."""
    found: list[Verdict] = []
    for who in dict.fromkeys(row["who"] for row in rows):
        its = sorted((row for row in rows if row["who"] == who and "failed" not in row), key=_silos)
        if len(its) < 2:
            continue
        few, many = its[0], its[-1]
        time = median(m / f for m, f in zip(many["ms_each_turn"], few["ms_each_turn"], strict=True))
        added = 1024 * (many["mib_in_rounds"] - few["mib_in_rounds"]) / (_silos(many) - _silos(few))
        bound = 1.2 * many["kib_local"] + 64
        sizes = f"{_silos(many)} silos against {_silos(few)}"
        slower = f"{sizes}: time a silo at most x 1.1"
        found.append(conclude("all", who, slower, time, time <= 1.1, beside))
        larger = f"{sizes}: KiB a silo at most {bound:.1f}"
        found.append(conclude("all", who, larger, added, added <= bound, None))  # load changes no memory
    return found


CLUSTER = 1.15  # Ray on two nodes over two processes on the same cores


def cluster(ratios: Mapping[str, float], beside: float) -> list[Verdict]:
    """Whether a round on two nodes takes at most ``CLUSTER`` times as long as on one. ``ratios``: by load. ``beside``: as ``conclude``."""
    claim = f"at most x {CLUSTER:g} of two processes"
    return [
        conclude(load, "Ray, two nodes", claim, ratio, ratio <= CLUSTER, beside)
        for load, ratio in ratios.items()
    ]


def _silos(row: Mapping[str, Any]) -> int:
    return int(row["silos"])
