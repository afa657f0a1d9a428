"""
Whether everything that leaves follows from noisy sums, and how much one record contributes to each of them.

The first round is trained while every sum is recorded, and again on neighbouring data with the noisy sums of the first
time. Then all releases, also those of statistics and metrics, are compared one by one between neighbouring data sets, as
composition assumes: given the same earlier releases.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import chi2
from torch import Tensor

from fedtl.audit.retraining.altered_data import (
    absent,
    as_floats,
    extreme,
    first_units,
    synthetic_rows,
    units_of,
)
from fedtl.audit.retraining.audited_silo import AuditedSilo
from fedtl.audit.retraining.recorded_sums import (
    STEPS,
    NoisySum,
    SumRecorder,
    TrainedRound,
    distance_over_noise,
    sample_all_but,
    statistics_multiplier,
    train_recorded,
)
from fedtl.audit.verdict import Measurement, exact, not_exercised
from fedtl.data.dataset import SiloDataset
from fedtl.tasks.classification import correct

UNITS = 32  # the number of units that are trained on
ROUNDING = 2e-3  # relative: the error of float32 in sums over records
MAX_DIFFERENCE = 0.02  # the largest relative difference of a record's contributions with other records


@dataclass(frozen=True)
class NeighbourRounds:
    """
    A round, and the same round on neighbouring data. ``base``: a round on a few of the silo's rows, of which unit 1 is
    extreme. ``without_record``, ``without_extreme``: the same without unit 0, and without unit 1. ``others``: with
    synthetic rows except for the extreme unit, and with other units sampled; ``others_without_extreme``: the same without
    the extreme unit.
    """

    audited: AuditedSilo
    base: TrainedRound
    without_record: TrainedRound
    without_extreme: TrainedRound
    others: TrainedRound
    others_without_extreme: TrainedRound

    @property
    def repeated(self) -> dict[str, TrainedRound]:
        """The rounds that were trained with the noisy sums of ``base``."""
        return {
            "without a record": self.without_record,
            "without an extreme record": self.without_extreme,
            "with other rows": self.others,
            "with other rows and without a record": self.others_without_extreme,
        }


def train_neighbours(audited: AuditedSilo) -> NeighbourRounds:
    """Train the five rounds."""
    data, guarantee = first_units(as_floats(audited.data, audited.trainer), audited.guarantee, UNITS)
    units = units_of(data, guarantee)
    base_data = extreme(data, units == 1)

    def again(rows: SiloDataset, left_out: Sequence[int] = ()) -> TrainedRound:
        return train_recorded(audited, guarantee, rows, SumRecorder(base.recorder, sample_all_but(left_out)))

    base = train_recorded(audited, guarantee, base_data, SumRecorder(None, sample_all_but(())))
    synthetic = as_floats(synthetic_rows(audited.data), audited.trainer)
    other_data = _with_extreme_unit(synthetic, base_data, units == 1)
    half = range(2, guarantee.protected.count, 2)
    return NeighbourRounds(
        audited,
        base,
        without_record=again(_with_validation_label_changed(audited, absent(base_data, units == 0))),
        without_extreme=again(absent(base_data, units == 1)),
        others=again(other_data, half),
        others_without_extreme=again(absent(other_data, units == 1), half),
    )


def _with_extreme_unit(synthetic: SiloDataset, base: SiloDataset, which: Tensor) -> SiloDataset:
    """Synthetic rows in place of the base rows, except for those in ``which``."""
    count = len(base.train)
    x, y = synthetic.train.x[:count].clone(), synthetic.train.y[:count].clone()
    x[which], y[which] = base.train.x[which], base.train.y[which]
    return replace(synthetic, train=replace(base.train, x=x, y=y))


def _with_validation_label_changed(audited: AuditedSilo, data: SiloDataset) -> SiloDataset:
    """Other labels for one unit of the validation rows, which the initial model classifies correctly if there is one."""
    val = data.val
    if not len(val):
        return data
    scores = audited.trainer.scores(audited.trainer.initial(data.width), val.x, data)
    right = correct(scores, val.y).nonzero().flatten() if data.classes else val.y[:0]
    row = int(right[0]) if len(right) else 0
    which = torch.arange(len(val)) == row if val.units is None else val.units == val.units[row]
    return replace(data, val=replace(val, y=extreme(replace(data, train=val), which).train.y))


def noisy_sums_alone(rounds: NeighbourRounds) -> Measurement:
    """With the same noisy sums, everything that leaves and all local state is the same bit for bit."""
    base = rounds.base.outcome
    if base is None:
        return exact(False, None, "the round failed on the silo's own rows")
    for change, other in rounds.repeated.items():
        if other.outcome is None:
            continue
        names = base.keys() | other.outcome.keys()
        changed = sorted(name for name in names if not _equal(base, other.outcome, name))
        if changed:
            reason = f"{change}, {len(changed)} tensors changed although all noisy sums were the same, such as {changed[:1]}"
            return exact(False, float(len(changed)), reason)
    for change, other in rounds.repeated.items():
        if other.outcome is None:
            return exact(False, None, f"the round failed {change}: whether it fails depends on records")
    return exact(True, 0.0, "")


def _equal(some: Mapping[str, Tensor], others: Mapping[str, Tensor], name: str) -> bool:
    return name in some and name in others and torch.equal(some[name], others[name])


def release_noise(rounds: NeighbourRounds) -> Measurement:
    """The noise of each sum consists of normal numbers with the requested standard deviation."""
    p, ratios = [], []
    for each in (total for sums in rounds.base.recorder.sums.values() for total in sums):
        noise = (each.released - each.total) / each.std
        squares, count = float((noise**2).sum()), len(noise)
        p.append(2 * float(min(chi2.cdf(squares, count), chi2.sf(squares, count))))
        ratios.append((squares / count) ** 0.5)
    if not p:
        return exact(False, None, "no sum was released with noise")
    worst = p.index(min(p))
    reason = f"the noise of a sum has {ratios[worst]:.3f} times the requested standard deviation"
    return Measurement(min(1.0, p[worst] * len(p)), ratios[worst], reason)


def one_record(rounds: NeighbourRounds) -> Measurement:
    """
    A record changes the sums of training by at most one clip a step: over all steps, the squared ratios of contribution
    and noise add up to at most steps / sigma^2.
    """
    guarantee = rounds.audited.guarantee
    steps = STEPS * len(rounds.audited.private_phases())
    if not steps:
        return not_exercised("no phase takes private steps")
    training, unit = guarantee.training, guarantee.protected.unit
    ratio = max(
        distance_over_noise(rounds.base, other, "noise")
        for other in (rounds.without_record, rounds.without_extreme)
    )
    clips = ratio * training.noise_multiplier / math.sqrt(steps)
    reason = f"one {unit} changes the sums of training by {clips:.2f} clips a step; the noise covers 1"
    return exact(clips <= 1 + ROUNDING, clips, reason)


def independent_contributions(rounds: NeighbourRounds) -> Measurement:
    """What a record adds to a sum depends on no other record, and neither does the noise."""
    four = (rounds.base, rounds.without_extreme, rounds.others, rounds.others_without_extreme)
    sums = [
        [each for kind in ("statistics", "summary", "noise") for each in trained.recorder.of(kind)]
        for trained in four
    ]
    if len({len(each) for each in sums}) > 1:
        return exact(False, None, "the number of released sums depends on records")
    worst = 0.0
    for own, own_without, other, other_without in zip(*sums, strict=True):
        if len({each.std for each in (own, own_without, other, other_without)}) > 1:
            ratio = other.std / own.std
            reason = f"the noise depends on records: it has {ratio:.3f} times the standard deviation with other rows"
            return exact(False, ratio, reason)
        worst = max(worst, _relative_difference(own, own_without, other, other_without))
    reason = f"the contribution of one record to a sum changes by {worst:.1%} with the other records"
    return exact(worst <= MAX_DIFFERENCE, worst, reason)


def _relative_difference(
    own: NoisySum, own_without: NoisySum, other: NoisySum, other_without: NoisySum
) -> float:
    """The difference of one record's two contributions, relative to the larger one; without rounding of the sums."""
    first, second = own.total - own_without.total, other.total - other_without.total
    rounding = 1e-5 * float(own.total.norm() + other.total.norm())
    difference = max(0.0, float((first - second).norm()) - rounding)
    largest = max(float(first.norm()), float(second.norm()))
    return difference / largest if largest > rounding else 0.0


def one_record_in_statistics(rounds: NeighbourRounds) -> Measurement:
    """A record's contributions to all sub-releases, over their noise, are those of one Gaussian mechanism of the claim."""
    guarantee = rounds.audited.guarantee
    if guarantee.releases.statistics is None:
        return not_exercised("no statistics are released")
    pairs = [
        (rounds.base, rounds.without_record),
        (rounds.base, rounds.without_extreme),
        (rounds.others, rounds.others_without_extreme),
    ]
    ratio = max(distance_over_noise(base, other, "statistics") for base, other in pairs)
    clips = ratio * statistics_multiplier(guarantee)
    reason = (
        f"one {guarantee.protected.unit} changes the statistics by {clips:.2f} times what their noise covers"
    )
    return exact(clips <= 1 + ROUNDING, clips, reason)


def one_record_in_summaries(rounds: NeighbourRounds) -> Measurement:
    """A record changes the sum of each summary by at most its bound, and its noise is the claimed one."""
    releases = rounds.audited.guarantee.releases.summaries
    if not releases:
        return not_exercised("no summary is released")
    stds = [each.std for each in rounds.base.recorder.of("summary")]
    if stds != (intended := [one.noise_multiplier * one.bound for one in releases]):
        reason = f"the sums of the summaries have noise of standard deviations {stds}, not {intended}"
        return exact(False, None, reason)
    pairs = [
        (rounds.base, rounds.without_record),
        (rounds.base, rounds.without_extreme),
        (rounds.others, rounds.others_without_extreme),
    ]
    ratio = max(distance_over_noise(base, other, "summary") for base, other in pairs)
    change = ratio * releases[0].noise_multiplier / math.sqrt(len(releases))
    unit = rounds.audited.guarantee.protected.unit
    reason = f"one {unit} changes the summaries by {change:.2f} times their bound; the noise covers 1"
    return exact(change <= 1 + ROUNDING, change, reason)


def one_record_in_metric(rounds: NeighbourRounds) -> Measurement:
    """A record changes the sum that the accuracy is computed from by at most 1, and its noise is the claimed one."""
    metric = rounds.audited.guarantee.releases.accuracy
    if metric is None:
        return not_exercised("no metric is released")
    stds = [each.std for each in rounds.base.recorder.of("metric")]
    if stds != [metric.noise_multiplier]:
        reason = (
            f"the accuracy's sum has noise of standard deviation {stds}, not {metric.noise_multiplier:.3g}"
        )
        return exact(False, None, reason)
    change = distance_over_noise(rounds.base, rounds.without_record, "metric") * metric.noise_multiplier
    reason = f"one record changes the sum of the accuracy by {change:.2f}; the noise covers 1"
    return exact(change <= 1 + ROUNDING, change, reason)
