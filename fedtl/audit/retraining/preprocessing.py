"""
Is anything learned from private rows before the mechanism? One record of the stored rows is replaced by an extreme one, both
data sets are prepared and promised anew, and a round that does not sample the record is trained on each.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedtl.audit.retraining.audited_silo import Stage, few, units_of
from fedtl.audit.retraining.contributions import ROUNDING, Trained, statistics_multiplier, train
from fedtl.audit.retraining.recorded_sums import Tap, all_but
from fedtl.audit.verdict import Measured
from fedtl.data.dataset import SiloDataset
from fedtl.data.source import Array, Raw
from fedtl.errors import UserError
from fedtl.experiment.privacy_plan import terms
from fedtl.privacy.guarantee import PrivacyGuarantee

UNITS = 32
TRIED, SECONDS = (
    150,
    5.0,
)  # stored rows that are tried until one is found that is trained on, and for how long


@dataclass(frozen=True)
class Replaced:
    """A data set prepared twice: as it is, and with one stored row replaced; ``unit`` is that of the row, in training."""

    data: SiloDataset
    other: SiloDataset
    guarantee: PrivacyGuarantee
    other_promise: PrivacyGuarantee
    unit: int


def before_the_mechanism(stage: Stage) -> Measured:
    """
    The promise is the same, every sum of training is the same to the bit, and the statistics move by what one replaced
    record may move them.
    """
    found = _replaced(stage)
    if isinstance(found, str):
        return (None if found.startswith("no ") else 0.0), None, found
    some, others = _says(found.guarantee), _says(found.other_promise)
    if odd := [name for name in some if some[name] != others[name]]:
        return 0.0, float(len(odd)), f"one stored row changes what is promised: {odd[0]}"
    base = _trained(stage, found.data, found, None)
    other = _trained(stage, found.other, found, base)
    if base.left is None or other.left is None:
        return 0.0, None, "one stored row decides whether a round fails that does not sample it"
    moved = _moved(base, other, "noise", found.guarantee.training.noise_multiplier)
    moved += _moved(base, other, "metric", 1.0)
    if moved:
        reason = f"a record that was not sampled moves the sums by {moved:.3g} clips: something was learned from the rows"
        return 0.0, moved, f"{reason} before the mechanism"
    return _statistics(base, other, found.guarantee)


def _statistics(base: Trained, other: Trained, guarantee: PrivacyGuarantee) -> Measured:
    if guarantee.releases.statistics is None:
        return 1.0, 0.0, ""
    moved = _moved(base, other, "statistics", statistics_multiplier(guarantee))
    reason = f"one stored row moves the statistics by {moved:.2f} times their clip; 2 is the most that replacing one may"
    return float(moved <= 2 * (1 + ROUNDING)), moved, reason


def _moved(base: Trained, other: Trained, kind: str, multiplier: float) -> float:
    """How far all sums of a kind lie apart, in what one record may add."""
    some, others = base.tap.of(kind), other.tap.of(kind)
    if len(some) != len(others):
        return math.inf
    squares = sum(
        float(((a.total - b.total) ** 2).sum()) / a.std**2 for a, b in zip(some, others, strict=True)
    )
    return math.sqrt(squares) * multiplier if math.isfinite(squares) else math.inf


def _says(guarantee: PrivacyGuarantee) -> dict[str, Any]:
    """All that a promise says about training; not where it is kept and which rows it is about."""
    return {**vars(terms(guarantee)), "steps": guarantee.training.steps, "schedule": guarantee.schedule()}


def _replaced(stage: Stage) -> Replaced | str:
    """A stored row that is trained on, replaced; or why there is none, or what is wrong with it."""
    data, guarantee = stage.ready(stage.raw)
    count, end = len(stage.raw.train.y), time.monotonic() + SECONDS
    for row in np.unique(np.linspace(0, count - 1, TRIED).round().astype(int)).tolist():
        if time.monotonic() > end:
            break
        try:
            other, other_promise = stage.ready(_with_extreme(stage.raw, row))
        except UserError as error:
            return f"no extreme stored row is accepted: {error}"
        if len(other.train) != len(data.train):
            return f"one stored row decides how many rows train: {len(other.train)} or {len(data.train)}"
        changed = (other.train.x != data.train.x).flatten(1).any(1)
        if changed.any():
            apart = (other.train.x.double() - data.train.x.double()).abs().flatten(1).amax(1)
            unit = int(units_of(data, guarantee)[int(apart.argmax())])
            return Replaced(data, other, guarantee, other_promise, unit)
    return "no stored row among those that were tried is trained on"


def _with_extreme(raw: Raw, row: int) -> Raw:
    """The stored rows, of which one has inputs far from all others and another label that occurs; only its unit stays."""
    x, y = raw.train.x.copy(), raw.train.y.copy()
    x[row] = _far(x, row)
    others = y[y != y[row]]
    y[row] = others[0] if len(others) else y[row]
    return replace(raw, train=replace(raw.train, x=x, y=y))


def _far(x: Array, row: int) -> Any:
    if x.dtype.kind == "u":
        return 255 - x[row]
    return np.full_like(x[row], 1e4 * (1 + np.nanmax(np.abs(x))))


def _trained(stage: Stage, data: SiloDataset, found: Replaced, base: Trained | None) -> Trained:
    """A round on the row's unit and some others, which samples all of them but that unit."""
    units = units_of(data, found.guarantee)
    order = torch.cat([(units == found.unit).nonzero(), (units != found.unit).nonzero()]).flatten()
    train_rows = data.train
    moved = replace(
        train_rows,
        x=train_rows.x[order],
        y=train_rows.y[order],
        units=None if train_rows.units is None else _numbered(units[order]),
    )
    rows, guarantee = few(replace(data, train=moved), found.guarantee, UNITS)
    tap = Tap(None if base is None else base.tap, all_but([0]))
    return train(stage, guarantee, rows, tap)


def _numbered(units: torch.Tensor) -> torch.Tensor:
    """The same units, numbered in the order in which they come."""
    _, first, which = np.unique(units.numpy(), return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[which])
