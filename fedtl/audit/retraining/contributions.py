"""
Does everything that leaves follow from noisy sums, and how far does one record move each of them?

The first round is trained with every sum watched, and trained again on other rows with the released sums of the first
time. Then all releases, those of the statistics and of the metric among them, can be compared one by one between
neighbouring data sets, as composition assumes: given the same answers so far.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from scipy.stats import chi2
from torch import Tensor

from fedtl.audit.retraining.audited_silo import (
    Stage,
    absent,
    as_floats,
    as_kind,
    extreme,
    few,
    scratched,
    still,
    strangers,
    tried,
    units_of,
    unlimited,
)
from fedtl.audit.retraining.recorded_sums import Sum, Tap, Tapped, all_but
from fedtl.audit.verdict import Measured
from fedtl.data.dataset import SiloDataset
from fedtl.messages import SpendEvent, Update
from fedtl.models.state import State
from fedtl.privacy.dp_adabn import StatisticsRelease
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.training.metrics import correct

UNITS = 32  # units in the rehearsed round
STEPS = 2  # of each phase: the second begins where the first one's noise led
SHORT = 1e-3  # of the promised clip: a gradient of almost any record is longer in every single tensor
QUIET = 1e-3  # of the noise on statistics
ROUNDING = 2e-3  # relative: float32's share in sums over records


@dataclass(frozen=True)
class Trained:
    """What one round gave, by name and with the metrics, and its sums; ``left`` None where the round failed."""

    left: Mapping[str, Tensor] | None
    tap: Tap


@dataclass(frozen=True)
class Neighbours:
    """
    ``base``: a round on a few of the silo's rows, of which unit 1 is extreme. ``ordinary`` and ``far``: again without unit 0,
    and without unit 1. ``others``: with rows that nobody has, but for the extreme unit, and with other units sampled;
    ``others_without``: the same without the extreme unit.
    """

    stage: Stage
    base: Trained
    ordinary: Trained
    far: Trained
    others: Trained
    others_without: Trained

    @cached_property
    def again(self) -> dict[str, Trained]:
        return {
            "without a record": self.ordinary,
            "without an extreme record": self.far,
            "with other rows": self.others,
            "with other rows and without a record": self.others_without,
        }


def neighbours(stage: Stage) -> Neighbours:
    """Train the five rounds."""
    data, guarantee = few(as_floats(stage.data, stage.trainer), stage.guarantee, UNITS)
    units = units_of(data, guarantee)
    base_data = extreme(data, units == 1)
    count = guarantee.protected.count

    def again(rows: SiloDataset, base: Trained, left_out: Sequence[int] = ()) -> Trained:
        return train(stage, guarantee, rows, Tap(base.tap, all_but(left_out)))

    base = train(stage, guarantee, base_data, Tap(None, all_but(())))
    other = _with_unit(as_floats(strangers(stage.data), stage.trainer), data, base_data, units == 1)
    half = range(2, count, 2)
    return Neighbours(
        stage,
        base,
        again(_val_changed(stage, absent(base_data, units == 0)), base),
        again(absent(base_data, units == 1), base),
        again(other, base, half),
        again(absent(other, units == 1), base, half),
    )


def _with_unit(
    other: SiloDataset, few_rows: SiloDataset, extreme_rows: SiloDataset, which: Tensor
) -> SiloDataset:
    """Other rows in place of the few ones, but for those in ``which``."""
    count = len(few_rows.train)
    x = other.train.x[:count].clone()
    y = other.train.y[:count].clone()
    x[which], y[which] = extreme_rows.train.x[which], extreme_rows.train.y[which]
    return replace(other, train=replace(few_rows.train, x=x, y=y))


def _val_changed(stage: Stage, data: SiloDataset) -> SiloDataset:
    """The same validation rows, of which one unit that the first model gets right has other labels."""
    val = data.val
    if not len(val):
        return data
    found = stage.trainer.scores(stage.trainer.initial(data.width), val.x, data)
    right = correct(found, val.y).nonzero().flatten() if data.classes else val.y[:0]
    row = int(right[0]) if len(right) else 0
    which = torch.arange(len(val)) == row if val.units is None else val.units == val.units[row]
    return replace(data, val=replace(val, y=extreme(replace(data, train=val), which).train.y))


@dataclass(frozen=True)
class _Quiet(StatisticsRelease):
    """A release of statistics with so little noise that shrinkage towards no change does not hide the rows."""

    claimed: StatisticsRelease = field(kw_only=True)

    @classmethod
    def of(cls, its: StatisticsRelease) -> "_Quiet":
        noise = its.noise_multiplier * QUIET
        return cls(noise, its.layers, its.channels, its.units, claimed=its)

    @property
    def event(self) -> SpendEvent:
        return self.claimed.event


def statistics_multiplier(guarantee: PrivacyGuarantee) -> float:
    """The noise multiplier of the statistics in ``train``."""
    statistics = guarantee.releases.statistics
    return 0.0 if statistics is None else statistics.noise_multiplier * QUIET


def train(stage: Stage, guarantee: PrivacyGuarantee, data: SiloDataset, tap: Tap) -> Trained:
    """One round with a clip so short that it binds in every tensor, watched by ``tap``."""
    statistics = guarantee.releases.statistics
    quiet = None if statistics is None else _Quiet.of(statistics)
    changed = replace(
        as_kind(guarantee, Tapped, tap=tap),
        releases=replace(guarantee.releases, statistics=quiet),
        canaries=None,
    )
    clip = stage.guarantee.training.clip * SHORT
    changed = unlimited(changed, steps=stage.steps(STEPS), clip=clip)
    net = stage.trainer.net(data.width)
    with scratched(changed) as scratch, still(net):
        found = tried(lambda: stage.fit(scratch, data))
    return Trained(None if found is None else _left(*found), tap)


def _left(update: Update, local: State) -> dict[str, Tensor]:
    metrics = {f"metric {name}": torch.tensor(value) for name, value in update.metrics.items()}
    return {**update.delta, **local, **metrics, "weight": torch.tensor(update.weight)}


def noisy_sums_alone(found: Neighbours) -> Measured:
    """With the same released sums everything that leaves, and all that stays in the model, is the same to the bit."""
    if found.base.left is None:
        return 0.0, None, "the round failed on rows of the silo's own"
    for what, other in found.again.items():
        names = found.base.left.keys() | (other.left or found.base.left).keys()
        odd = sorted(name for name in names if other.left and not _equal(found.base.left, other.left, name))
        if odd:
            reason = (
                f"{what} {len(odd)} tensors changed although every noisy sum was the same, such as {odd[:1]}"
            )
            return 0.0, float(len(odd)), reason
    for what, other in found.again.items():
        if other.left is None:
            return 0.0, None, f"the round failed {what}: whether it fails depends on records"
    return 1.0, 0.0, ""


def _equal(some: Mapping[str, Tensor], others: Mapping[str, Tensor], name: str) -> bool:
    return name in some and name in others and torch.equal(some[name], others[name])


def released_noise(found: Neighbours) -> Measured:
    """What was added to each sum: independent normal numbers of the standard deviation that was asked for."""
    p, ratios = [], []
    for one in (sum for sums in found.base.tap.sums.values() for sum in sums):
        noise = (one.released - one.total) / one.std
        squares, count = float((noise**2).sum()), len(noise)
        p.append(2 * float(min(chi2.cdf(squares, count), chi2.sf(squares, count))))
        ratios.append((squares / count) ** 0.5)
    if not p:
        return 0.0, None, "no sum was released with noise"
    worst = p.index(min(p))
    reason = f"a sum's noise has {ratios[worst]:.3f} times the standard deviation that was asked for"
    return min(1.0, p[worst] * len(p)), ratios[worst], reason


def one_record(found: Neighbours) -> Measured:
    """
    A record moves the sums of training by one clip a step: over all steps the squared ratios of share and noise add up to
    no more than steps / sigma^2.
    """
    its, unit = found.stage.guarantee.training, found.stage.guarantee.protected.unit
    steps = STEPS * len(found.stage.phases())
    share = max(_ratio(found.base, other, "noise") for other in (found.ordinary, found.far))
    moved = share * its.noise_multiplier / math.sqrt(steps)
    reason = f"one {unit} moves the sums of training by {moved:.2f} clips a step; 1 is the most that the noise covers"
    return float(moved <= 1 + ROUNDING), moved, reason


def _ratio(base: Trained, other: Trained, kind: str) -> float:
    """The length of the difference between two rounds' sums of a kind, in standard deviations of their noise."""
    some, others = base.tap.of(kind), other.tap.of(kind)
    if len(some) != len(others):
        return math.inf
    squares = sum(
        float(((a.total - b.total) ** 2).sum()) / a.std**2 for a, b in zip(some, others, strict=True)
    )
    return math.sqrt(squares) if math.isfinite(squares) else math.inf


def shares_alike(found: Neighbours) -> Measured:
    """What a record adds to a sum depends on no other record, and neither does the noise."""
    pairs = [(found.base, found.far), (found.others, found.others_without)]
    kinds = [
        [one for kind in ("statistics", "noise") for one in its.tap.of(kind)]
        for pair in pairs
        for its in pair
    ]
    if len({len(sums) for sums in kinds}) > 1:
        return 0.0, None, "how many sums are released depends on records"
    worst = 0.0
    for own, own_without, other, other_without in zip(*kinds, strict=True):
        if len({one.std for one in (own, own_without, other, other_without)}) > 1:
            return (
                0.0,
                other.std / own.std,
                f"the noise depends on records: {other.std / own.std:.3f} times as much with others",
            )
        worst = max(worst, _apart(own, own_without, other, other_without))
    reason = f"what one record adds to a sum changes by {worst:.1%} with the records beside it"
    return float(worst <= 0.02), worst, reason


def _apart(own: Sum, own_without: Sum, other: Sum, other_without: Sum) -> float:
    """How far two shares of one record lie apart, as a part of the larger one; rounding of the sums aside."""
    share, another = own.total - own_without.total, other.total - other_without.total
    rounding = 1e-5 * float(own.total.norm() + other.total.norm())
    apart = max(0.0, float((share - another).norm()) - rounding)
    largest = max(float(share.norm()), float(another.norm()))
    return apart / largest if largest > rounding else 0.0


def statistics_record(found: Neighbours) -> Measured:
    """A record's shares in all sub-releases of the statistics, each beside its own noise: one Gaussian mechanism of the claim."""
    its = found.stage.guarantee
    if its.releases.statistics is None:
        return None, None, "no statistics are released"
    base, others = found.base, (found.others, found.others_without)
    share = max(_ratio(base, found.ordinary, "statistics"), _ratio(base, found.far, "statistics"))
    moved = max(share, _ratio(*others, "statistics")) * statistics_multiplier(its)
    reason = f"one {its.protected.unit} moves the statistics by {moved:.2f} times what their noise covers"
    return float(moved <= 1 + ROUNDING), moved, reason


def metric_record(found: Neighbours) -> Measured:
    """A record moves the sum that the accuracy is made of by at most 1, and its noise is the claim's."""
    its = found.stage.guarantee.releases.accuracy
    if its is None:
        return None, None, "no metric is released"
    moved = _ratio(found.base, found.ordinary, "metric") * its.noise_multiplier
    stds = [one.std for one in found.base.tap.of("metric")]
    if stds != [its.noise_multiplier]:
        return (
            0.0,
            None,
            f"the accuracy was released with noise of {stds} on its sum, not of {its.noise_multiplier:.3g}",
        )
    reason = f"one record moves the sum of an accuracy by {moved:.2f}; 1 is the most that the noise covers"
    return float(moved <= 1 + ROUNDING), moved, reason
