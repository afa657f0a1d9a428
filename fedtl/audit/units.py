"""
Whose rows are attacked: single records, or all rows of each unit, such as a patient, where units are what is protected.

Then units are in or out together, and a unit's score is the mean over its rows.
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


def unit_of(experiment: Experiment) -> str:
    """What is protected, and so attacked: "record", or what the experiment names."""
    return experiment.privacy.unit if experiment.privacy else "record"


def numbered(parts: Sequence[Dataset], unit: str) -> Tensor | None:
    """Whose each row of all parts is, numbered from 0; nobody has rows in two parts. None: a unit each."""
    if unit == "record" or any(part.units is None for part in parts):
        return None
    found, first = [], 0
    for part in parts:
        assert part.units is not None
        found.append(renumbered(part.units) + first)
        first = int(found[-1].max()) + 1 if len(part) else first
    return torch.cat(found)


def renumbered(units: Tensor) -> Tensor:
    """The same units, numbered from 0 without gaps."""
    return units.unique(return_inverse=True)[1]


def coins(units: Tensor | None, rows: int, toss: Sequence[bool] | NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[rows]: each unit's coin for all of its rows."""
    tossed = np.asarray(toss, bool)
    return tossed[:rows] if units is None else tossed[units.numpy()]


def count(units: Tensor | None, rows: int) -> int:
    return rows if units is None else int(units.max()) + 1


def by_unit(values: Floats | NDArray[np.bool_], units: Tensor | None) -> Floats:
    """[..., rows] as [..., units]: means over each unit's rows."""
    if units is None:
        return values.astype(np.float64)
    which = units.numpy()
    sums = np.zeros((*values.shape[:-1], count(units, len(which))))
    np.add.at(np.moveaxis(sums, -1, 0), which, np.moveaxis(values, -1, 0))
    return np.asarray(sums / np.bincount(which))


def notes(experiment: Experiment) -> list[str]:
    """What a reader of an audit of units must know; nothing for records."""
    unit = unit_of(experiment)
    if unit == "record":
        return []
    return [
        f"Each {unit} is attacked with all of its rows: canaries stand for one {unit} each, a {unit} is in or out as a whole, and "
        f'its membership score is the mean over its rows. "members" and "others" count {unit}s.',
        not_covered(unit),
    ]
