"""A silo's data with some or all rows changed, for checks that compare training on neighbouring data."""

from dataclasses import replace

import torch
from torch import Tensor

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.training.batches import to_inputs
from fedtl.training.trainer import Trainer


def first_units(
    data: SiloDataset, guarantee: PrivacyGuarantee, count: int
) -> tuple[SiloDataset, PrivacyGuarantee]:
    """The rows of the first ``count`` units, or of all if there are fewer, and the guarantee for their number."""
    rows, units = data.train, units_of(data, guarantee)
    inside = units < count
    train = Dataset(rows.x[inside], rows.y[inside], None if rows.units is None else rows.units[inside])
    count, statistics = int(units[inside].max()) + 1, guarantee.releases.statistics
    if statistics is not None:
        statistics = replace(statistics, units=count)
    summaries = tuple(replace(one, units=count) for one in guarantee.releases.summaries)
    changed = replace(
        guarantee,
        protected=replace(guarantee.protected, count=count),
        releases=replace(guarantee.releases, statistics=statistics, summaries=summaries),
    )
    return replace(data, train=train), changed


def units_of(data: SiloDataset, guarantee: PrivacyGuarantee) -> Tensor:
    """The number of each training row's unit [N]; if records are protected, the row's own number."""
    if guarantee.protected.are_records or data.train.units is None:
        return torch.arange(len(data.train))
    return data.train.units


def synthetic_rows(data: SiloDataset) -> SiloDataset:
    """
    Synthetic rows in place of all rows, with the same units. They differ from those that every round tries first.
    """
    generator = torch.Generator().manual_seed(1)

    def synthetic(rows: Dataset) -> Dataset:
        if rows.x.dtype == torch.uint8:
            x = torch.randint(0, 256, rows.x.shape, dtype=torch.uint8, generator=generator)
        else:
            x = torch.randn(rows.x.shape, generator=generator).to(rows.x.dtype)
        if data.classes:
            y = torch.randint(data.width, rows.y.shape, generator=generator).to(rows.y)
        else:
            y = data.y_mean + data.y_std * torch.randn(rows.y.shape, generator=generator).to(rows.y)
        return Dataset(x, y, rows.units)

    return replace(data, train=synthetic(data.train), val=synthetic(data.val))


def as_floats(data: SiloDataset, trainer: Trainer) -> SiloDataset:
    """The inputs as the net receives them, so that any number may replace a value."""

    def floats(rows: Dataset) -> Dataset:
        return replace(rows, x=to_inputs(rows.x, trainer.device).cpu().contiguous())

    return replace(data, train=floats(data.train), val=floats(data.val))


def absent(data: SiloDataset, which: Tensor) -> SiloDataset:
    """Training rows in ``which`` [N] get inputs that are not finite: such a record adds nothing to any sum."""
    x = data.train.x.clone()
    x[which] = torch.nan
    return replace(data, train=replace(data.train, x=x))


def extreme(data: SiloDataset, which: Tensor) -> SiloDataset:
    """Training rows in ``which`` [N] get inputs far from all others, and another label."""
    x, y = data.train.x.clone(), data.train.y.clone()
    x[which] = -30 * x[which] - 3
    y[which] = (y[which] + 1) % data.width if data.classes else y[which] + 30 * data.y_std
    return replace(data, train=replace(data.train, x=x, y=y))
