"""
Whether anything is learned from private rows before the mechanism: one stored record is replaced by an extreme one, both
data sets are prepared with their guarantees, and a round that does not sample the record is trained on each.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedtl.audit.retraining.altered_data import first_units, units_of
from fedtl.audit.retraining.audited_silo import AuditedSilo
from fedtl.audit.retraining.contributions import ROUNDING
from fedtl.audit.retraining.recorded_sums import (
    SumRecorder,
    TrainedRound,
    distance_over_noise,
    sample_all_but,
    statistics_multiplier,
    train_recorded,
)
from fedtl.audit.verdict import Measurement, exact, not_exercised
from fedtl.data.dataset import SiloDataset
from fedtl.data.source import Array, Raw
from fedtl.errors import UserError
from fedtl.experiment.privacy_report import silo_privacy
from fedtl.privacy.guarantee import PrivacyGuarantee

UNITS = 32
# How many stored rows are tried until one is found that is trained on, and for how long.
MAX_TRIED_ROWS, MAX_SECONDS = 150, 5.0


@dataclass(frozen=True)
class ReplacedRow:
    """Data prepared twice: as stored, and with one stored row replaced; ``unit`` is the training unit of that row."""

    data: SiloDataset
    other: SiloDataset
    guarantee: PrivacyGuarantee
    other_guarantee: PrivacyGuarantee
    unit: int


def before_the_mechanism(audited: AuditedSilo) -> Measurement:
    """
    The guarantee is the same, every sum of training is the same bit for bit, and the statistics change by what one
    replaced record may change them.
    """
    replaced = _replace_a_row(audited)
    if isinstance(replaced, Measurement):
        return replaced
    some, others = _terms_of(replaced.guarantee), _terms_of(replaced.other_guarantee)
    if changed := [name for name in some if some[name] != others[name]]:
        reason = f"one stored row changes the privacy guarantee: {changed[0]}"
        return exact(False, float(len(changed)), reason)
    base = _train(audited, replaced.data, replaced, None)
    other = _train(audited, replaced.other, replaced, base)
    if base.outcome is None or other.outcome is None:
        return exact(
            False,
            None,
            "whether a round fails depends on one stored row, which the round does not sample",
        )
    change = distance_over_noise(base, other, "noise") * replaced.guarantee.training.noise_multiplier
    change += distance_over_noise(base, other, "metric")
    if change:
        reason = (
            f"a record that was not sampled changes the sums by {change:.3g} clips: something was learned from the rows "
            "before the mechanism"
        )
        return exact(False, change, reason)
    if (summaries := _summaries(base, other, replaced.guarantee)) is not None:
        return summaries
    return _statistics(base, other, replaced.guarantee)


def _summaries(base: TrainedRound, other: TrainedRound, guarantee: PrivacyGuarantee) -> Measurement | None:
    """Return a failed check if one stored row, replaced by another, changes a summary by more than twice its bound."""
    releases = guarantee.releases.summaries
    if not releases:
        return None
    change = distance_over_noise(base, other, "summary") * releases[0].noise_multiplier / len(releases) ** 0.5
    reason = f"replacing one stored row changes the summaries by {change:.2f} times their bound; at most 2 is allowed"
    return None if change <= 2 * (1 + ROUNDING) else exact(False, change, reason)


def _statistics(base: TrainedRound, other: TrainedRound, guarantee: PrivacyGuarantee) -> Measurement:
    if guarantee.releases.statistics is None:
        return exact(True, 0.0, "")
    change = distance_over_noise(base, other, "statistics") * statistics_multiplier(guarantee)
    reason = f"replacing one stored row changes the statistics by {change:.2f} times their clip; at most 2 is allowed"
    return exact(change <= 2 * (1 + ROUNDING), change, reason)


def _terms_of(guarantee: PrivacyGuarantee) -> Mapping[str, Any]:
    """All that a guarantee says about training, without its ledger's path and the fingerprint of its rows."""
    return {
        **vars(silo_privacy(guarantee)),
        "steps": guarantee.training.steps,
        "schedule": guarantee.schedule(),
    }


def _replace_a_row(audited: AuditedSilo) -> ReplacedRow | Measurement:
    """Replace a stored row that is trained on; or say why there is none, or what is wrong with it."""
    data, guarantee = audited.prepare(audited.raw)
    count, end = len(audited.raw.train.y), time.monotonic() + MAX_SECONDS
    for row in np.unique(np.linspace(0, count - 1, MAX_TRIED_ROWS).round().astype(int)).tolist():
        if time.monotonic() > end:
            break
        try:
            other, other_guarantee = audited.prepare(_with_extreme_row(audited.raw, row))
        except UserError as error:
            return not_exercised(f"no extreme stored row is accepted: {error}")
        if len(other.train) != len(data.train):
            reason = f"one stored row decides how many rows are trained on: {len(other.train)} or {len(data.train)}"
            return exact(False, None, reason)
        if (other.train.x != data.train.x).any():
            apart = (other.train.x.double() - data.train.x.double()).abs().flatten(1).amax(1)
            unit = int(units_of(data, guarantee)[int(apart.argmax())])
            return ReplacedRow(data, other, guarantee, other_guarantee, unit)
    return not_exercised("no stored row among those that were tried is trained on")


def _with_extreme_row(raw: Raw, row: int) -> Raw:
    """Give a stored row inputs far from all others, and another label that occurs; its unit stays."""
    x, y = raw.train.x.copy(), raw.train.y.copy()
    x[row] = _extreme_input(x, row)
    others = y[y != y[row]]
    y[row] = others[0] if len(others) else y[row]
    return replace(raw, train=replace(raw.train, x=x, y=y))


def _extreme_input(x: Array, row: int) -> Array:
    if x.dtype.kind == "u":
        return np.asarray(255 - x[row])
    return np.full_like(x[row], 1e4 * (1 + np.nanmax(np.abs(x))))


def _train(
    audited: AuditedSilo, data: SiloDataset, replaced: ReplacedRow, base: TrainedRound | None
) -> TrainedRound:
    """Train a round on the replaced row's unit and some others, which samples all of them except that unit."""
    units, rows = units_of(data, replaced.guarantee), data.train
    order = torch.cat([(units == replaced.unit).nonzero(), (units != replaced.unit).nonzero()]).flatten()
    reordered = replace(
        rows, x=rows.x[order], y=rows.y[order], units=None if rows.units is None else _renumber(units[order])
    )
    few, guarantee = first_units(replace(data, train=reordered), replaced.guarantee, UNITS)
    recorder = SumRecorder(None if base is None else base.recorder, sample_all_but([0]))
    return train_recorded(audited, guarantee, few, recorder)


def _renumber(units: torch.Tensor) -> torch.Tensor:
    """The same units, numbered in the order in which they occur."""
    _, first, which = np.unique(units.numpy(), return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[which])
