"""
Whether single records are attacked or, where units such as patients are protected, all rows of a unit together.

In the second case a unit's rows are in or out together, and its score is the mean over its rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.data.dataset import Dataset
from fedtl.experiment.config.schema import Experiment
from fedtl.report.wording import not_covered

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def unit_of(experiment: Experiment) -> str:
    """What is protected: "record", or the unit that the experiment names."""
    return experiment.privacy.unit if experiment.privacy else "record"


def numbered(parts: Sequence[Dataset], unit: str) -> Tensor | None:
    """The unit of each row of all parts, numbered from 0; no unit is in two parts. None: each row is a unit."""
    if unit == "record" or any(part.units is None for part in parts):
        return None
    numbers, first = [], 0
    for part in parts:
        assert part.units is not None
        numbers.append(renumbered(part.units) + first)
        first = int(numbers[-1].max()) + 1 if len(part) else first
    return torch.cat(numbers)


def renumbered(units: Tensor) -> Tensor:
    """The same units, numbered from 0 without gaps."""
    return units.unique(return_inverse=True)[1]


def count(units: Tensor | None, rows: int) -> int:
    return rows if units is None else int(units.max()) + 1


def by_row(values: Bools, units: Tensor | None) -> Bools:
    """The value of each row's unit [rows]. ``values``: at least one for each unit."""
    return values if units is None else values[units.numpy()]


def by_unit(values: Floats | Bools, units: Tensor | None) -> Floats:
    """The means over each unit's rows [..., units] of ``values`` [..., rows]."""
    if units is None:
        return values.astype(np.float64)
    numbers = units.numpy()
    sums = np.zeros((*values.shape[:-1], count(units, len(numbers))))
    np.add.at(np.moveaxis(sums, -1, 0), numbers, np.moveaxis(values, -1, 0))
    return np.asarray(sums / np.bincount(numbers))


def notes(experiment: Experiment) -> list[str]:
    """What a reader of an audit of units must know; nothing for records."""
    unit = unit_of(experiment)
    if unit == "record":
        return []
    return [
        f"Each {unit} is attacked with all rows: a canary stands for one {unit}, a {unit} is in or out as a whole, and its "
        f'membership score is the mean over its rows. "members" and "others" count {unit}s.',
        not_covered(unit),
    ]
