"""
What the canaries of a run cannot see, tried out at the site with its own code and data: one round through ``Bench.fit``,
again and again, with one thing changed. A scratch ledger is charged; nothing is released.

What a change may do is known beforehand: nothing at all where no record is sampled, two clips for one record, everything
for the noise.
"""

import copy as copies
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fedtl.audit.conformance import ROUNDING, largest_cosine
from fedtl.audit.recorded import Stretch, steps, stretches
from fedtl.audit.verdict import Check
from fedtl.bench import Bench
from fedtl.messages import Task, Update
from fedtl.partition import Role
from fedtl.privacy import labels
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.promise import Promise
from fedtl.silo import Rows, Silo, SiloData
from fedtl.simulate.scratch import memory, scratch
from fedtl.state import State, difference
from fedtl.study import Study

TRIED = 4  # records that are replaced, one at a time
RARE = 1e-12  # a sampling rate at which no record is ever drawn


@dataclass(frozen=True)
class _Unsampled(Promise):
    """A promise that draws nobody, and divides as the real one does."""

    divisor: float = field(default=1.0, kw_only=True)

    @property
    def expected_batch(self) -> float:
        return self.divisor


@dataclass(frozen=True)
class Stage:
    """One silo as it was before its first round, to be trained over and over."""

    study: Study
    name: str
    promise: Promise

    def task(self) -> Task:
        experiment = self.study.experiment
        width = self.study.data(self.name).width
        shared, _ = self.study.bench.partition.split(self.study.bench.initial(width))
        return Task("rehearsal", 1, experiment.rounds, experiment.seed, shared)

    def fit(
        self, promise: Promise, data: SiloData | None = None, bench: Bench | None = None
    ) -> tuple[Update, State]:
        """The update and the silo's local state after the first round."""
        bench = bench or self.study.bench
        own = data or self.study.data(self.name)
        _, local = bench.partition.split(bench.initial(own.width))
        silo = Silo(self.name, own, local, self.study.secret(self.name), promise, labels.public(Role))
        return bench.fit(silo, self.task()), silo.local


def rehearse(study: Study, name: str, run: list[Stretch]) -> list[Check]:
    """All rehearsals of one silo, in a fixed order and number."""
    stage = Stage(study, name, study.promises[name])
    checks: list[tuple[str, Callable[[Stage], tuple[float, float | None, str]]]] = [
        ("around the mechanism", _around),
        ("one record", _one_record),
        ("local-only state", _local_only),
        ("statistics", _statistics),
        ("fresh noise", lambda stage: _fresh(stage, run)),
    ]
    return [Check(what, name, *check(stage)) for what, check in checks]


@contextmanager
def _scratch(promise: Promise, **changes: Any) -> Iterator[Promise]:
    """The promise with a ledger and a place for canaries of its own, and some of its values changed."""
    with scratch(memory()) as folder:
        its = promise.canaries
        canaries = None if its is None else replace(its, folder=folder / "canaries")
        wanted = {"canaries": canaries, **changes}
        yield replace(promise, book=folder / "ledger.sqlite", **wanted)


def _around(stage: Stage) -> tuple[float, float, str]:
    """Where no record is drawn, other records must not change a bit of what leaves or of what the next round begins with."""
    its = stage.promise
    plain = {key: getattr(its, key) for key in its.__dataclass_fields__ if key not in ("canaries", "refresh")}
    found = []
    for data in (stage.study.data(stage.name), strangers(stage.study.data(stage.name))):
        nobody = _Unsampled(**plain, divisor=its.expected_batch)
        with _scratch(nobody, sample_rate=RARE, seed=1) as promise:
            update, local = stage.fit(promise, data)
        found.append(update.delta | local)
    moved = [name for name in found[0] if not torch.equal(found[0][name], found[1][name])]
    reason = f"no record was sampled, and {len(moved)} tensors depend on the rows all the same, such as {moved[:1]}"
    return float(not moved), float(len(moved)), reason


def _one_record(stage: Stage) -> tuple[float, float, str]:
    """One full-batch step of rate 1, with and without a record replaced by its opposite: at most two clips apart."""
    its, bench = stage.promise, copies.copy(stage.study.bench)
    bench.training = replace(
        bench.training, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, body_lr=1.0
    )
    data, worst = stage.study.data(stage.name), 0.0
    for phase in (number for number, count in enumerate(its.steps) if count):
        once = tuple(int(number == phase) for number in range(len(its.steps)))

        def trained(rows: SiloData, once: tuple[int, ...] = once) -> State:
            changes: dict[str, Any] = {"sample_rate": 1.0, "steps": once, "rounds": 1, "seed": 1}
            # Accounted for as what it is: one step of everybody.
            changes |= {"epsilon": 1e9, "lifetime": (1e9, its.delta), "refresh": None, "canaries": None}
            with _scratch(its, **changes) as promise:
                update, local = stage.fit(promise, rows, bench)
            return update.delta | local

        before = trained(data)
        for row in np.linspace(0, len(data.train) - 1, TRIED).round().astype(int):
            gap = difference(trained(opposite(data, int(row))), before)
            length = math.sqrt(sum(float(part.double().square().sum()) for part in gap.values()))
            worst = max(worst, length * its.records / its.clip)
    reason = f"replacing one record moves what training made by {worst:.2f} clips; 2 is the most that the noise covers"
    return float(worst <= 2 * (1 + 10 * ROUNDING)), worst, reason


def _local_only(stage: Stage) -> tuple[float, float, str]:
    """Other validation rows, and a model personalised and adapted in between: the bytes that leave stay."""
    found, data = [], stage.study.data(stage.name)
    for other in (False, True):
        if other:
            _, local = stage.study.bench.partition.split(stage.study.bench.initial(data.width))
            stage.study.bench.settle(Silo(stage.name, data, local, b"elsewhere"), stage.task())
        swapped = other and stage.promise.metric is None  # an accuracy that was promised is of these rows
        rows = replace(data, val=strangers(data).train) if swapped else data
        with _scratch(stage.promise, seed=1) as promise:
            update, _ = stage.fit(promise, rows)
        found.append((update.delta, update.weight, dict(update.metrics)))
    moved = [name for name, tensor in found[0][0].items() if not torch.equal(tensor, found[1][0][name])]
    moved += ["weight"] * (found[0][1] != found[1][1]) + ["metrics"] * (found[0][2] != found[1][2])
    reason = f"local-only state was replaced, and {len(moved)} of what leaves changed, such as {moved[:1]}"
    return float(not moved), float(len(moved)), reason


def _statistics(stage: Stage) -> tuple[float, float | None, str]:
    """Released twice, statistics with fresh noise differ, wherever they are not shrunk to what they were."""
    if stage.promise.refresh is None:
        return 1.0, None, "none are released"
    names = list(stage.study.bench.partition.names(Role.STATS))
    begun = stage.study.bench.initial(stage.study.data(stage.name).width)
    found = []
    for _ in range(2):
        with _scratch(stage.promise) as promise:
            update, local = stage.fit(promise)
        shared = stage.task().shared
        found.append(
            {name: local[name] if name in local else shared[name] + update.delta[name] for name in names}
        )
    same = [
        name
        for name in names
        if torch.equal(found[0][name], found[1][name]) and not torch.equal(found[0][name], begun[name])
    ]
    reason = f"two releases of {len(same)} statistics are the same to the bit, such as {same[:1]}: they carry no noise"
    return float(not same), float(len(same)), reason


def _fresh(stage: Stage, run: list[Stretch]) -> tuple[float, float | None, str]:
    """The first recorded round, trained again from the same seed: its noise must be another."""
    its = stage.promise.canaries
    if its is None or not run:
        return 1.0, None, "no canaries"
    again = []
    for _ in range(2):
        with _scratch(stage.promise) as promise:
            stage.fit(promise)
            canaries = promise.canaries
            assert isinstance(canaries, Canaries)
            again.append(steps(stretches(canaries.folder))[:, ~run[0].member])
    first = steps([one for one in run if one.round == run[0].round])[:, ~run[0].member]
    p, largest = min(largest_cosine(*pair) for pair in ((first, again[0]), (again[0], again[1])))
    reason = f"the same round again has the same noise (correlation {largest:.3f}; sound is 0): it comes from a seed"
    return min(1.0, 2 * p), largest, reason


def strangers(data: SiloData) -> SiloData:
    """As many rows that nobody has."""
    generator = torch.Generator().manual_seed(0)

    def other(rows: Rows) -> Rows:
        if rows.x.dtype == torch.uint8:
            x = torch.randint(0, 256, rows.x.shape, dtype=torch.uint8, generator=generator)
        else:
            x = torch.randn(rows.x.shape, generator=generator).to(rows.x.dtype)
        if not data.classes:
            return Rows(
                x, data.y_mean + data.y_std * torch.randn(rows.y.shape, generator=generator).to(rows.y)
            )
        return Rows(x, torch.randint(data.width, rows.y.shape, generator=generator).to(rows.y))

    return replace(data, train=other(data.train), val=other(data.val))


def opposite(data: SiloData, row: int) -> SiloData:
    """The same rows but for one, which has the negative of its input and another label."""
    x, y = data.train.x.clone(), data.train.y.clone()
    x[row] = 255 - x[row] if x.dtype == torch.uint8 else -3 * x[row]
    y[row] = (y[row] + 1) % data.width if data.classes else y[row] + 3 * data.y_std
    return replace(data, train=Rows(x, y))
