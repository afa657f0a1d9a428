"""What a silo trains on. Rows exist only in ``fedtl/data``, ``fedtl/training`` and what is built on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.data.origins import LEARNED, Origins
from fedtl.tasks.base import LearningTask
from fedtl.tasks.classification import CLASSIFICATION
from fedtl.tasks.regression import REGRESSION


@dataclass(frozen=True)
class Dataset:
    """
    Rows with labels. ``x``: uint8 pixels [N, C, H, W], or floats; with ``data.stream`` a ``streamed.StreamedInputs`` in the place of a tensor. ``y`` [N]: class numbers; or numbers in the label's own
    unit, float64, [N, K] where a row has K of them. ``units`` [N]: whose row each is, numbered from 0 in each set of rows; None: every row is a unit of its own.
    """

    x: Tensor
    y: Tensor
    units: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def unit_count(self) -> int:
        """The number of units that privacy protects: rows, where each row is a unit of its own."""
        return len(self) if self.units is None else int(self.units.max()) + 1

    def take(self, rows: Tensor) -> "Dataset":
        """Return the rows at these indices, or where a [N] of bool is true."""
        x = self.x[rows] if isinstance(self.x, Tensor) else self.x.take(rows)
        return Dataset(x, self.y[rows], None if self.units is None else self.units[rows])


@dataclass(frozen=True)
class SiloDataset:
    """
    The training and validation rows of one silo, prepared.

    ``classes``: the silo's own labels, () where they are not exclusive classes, as in regression. ``target``: inputs without labels: of a second domain or, where
    ``one_domain``, of the silo's own rows whose labels are not used (``data.hidden``). ``y_mean`` and
    ``y_std``: the scale of the labels of a regression; of counts ``y_std`` is the mean that they are divided by. ``origins``: where the values come from that the rows were prepared
    with; private training refuses values that were learned from rows. ``task``: what is predicted; None: classification where there
    are classes, otherwise regression.
    """

    train: Dataset
    val: Dataset
    classes: tuple[str, ...]
    target: Tensor | None = None
    y_mean: float = 0.0
    y_std: float = 1.0
    origins: Origins = LEARNED
    one_domain: bool = False
    task: LearningTask = None  # type: ignore[assignment]  # never None once it is made

    def __post_init__(self) -> None:
        if self.task is None:
            object.__setattr__(self, "task", CLASSIFICATION if self.classes else REGRESSION)

    @property
    def inputs(self) -> Tensor:
        """All training inputs of the silo's domain, with or without label: what exact statistics describe."""
        if self.target is None or not self.one_domain:
            return self.train.x
        return torch.cat([self.train.x, self.target])

    @property
    def hidden(self) -> int:
        """How many training rows of the silo's domain have a label that is not used."""
        return 0 if self.target is None or not self.one_domain else len(self.target)

    @property
    def has_labels(self) -> bool:
        """Whether the silo has training rows with a label."""
        return len(self.train) > 0

    def rows_in_epoch(self, all_rows: bool) -> int:
        """
        Return how many rows an epoch passes over: those with labels or, in a silo without labels, all. ``all_rows``: those with
        and without labels.
        """
        others = 0 if self.target is None else len(self.target)
        return len(self.train) + others if all_rows else len(self.train) or others

    def scaled(self, values: Tensor) -> Tensor:
        """
        Return labels or scores in the scale of the losses: in regression (values - y_mean) / y_std, computed in float64
        and then narrowed; counts / y_std; class numbers, scores of classes and labels that are compared as they are; other numbers only narrowed.
        """
        if self.classes or self.task.exact_labels:
            return values
        if self.task.relative:
            return (values.double() / self.y_std).to(torch.get_default_dtype())
        if not self.task.standardised:
            return values.to(torch.get_default_dtype()) if values.is_floating_point() else values
        return ((values.double() - self.y_mean) / self.y_std).to(torch.get_default_dtype())

    def in_label_unit(self, scores: Tensor) -> Tensor:
        """Return scores in the label's own unit, in regression float64: the inverse of ``scaled``."""
        if self.task.relative and self.y_std != 1.0:
            return scores.double() + math.log(self.y_std)
        if self.classes or not self.task.standardised:
            return scores
        return scores.double() * self.y_std + self.y_mean

    @property
    def loss_unit(self) -> float:
        """What losses in the label's own unit are divided by, so that those of several silos have one unit."""
        return self.y_std if self.task.relative else self.y_std**2

    @property
    def width(self) -> int:
        """The number of outputs of the silo's head."""
        return self.task.width(self.classes)


def pool(silos: Sequence[SiloDataset]) -> SiloDataset:
    """Return the rows of all silos together; labels of a regression in each silo's own scale, as it trains on them."""

    def joined(parts: Sequence[Dataset]) -> Dataset:
        y = [silo.scaled(part.y) for part, silo in zip(parts, silos, strict=True)]
        return Dataset(torch.cat([part.x for part in parts]), torch.cat(y))

    targets = [silo.target for silo in silos if silo.target is not None]
    return SiloDataset(
        joined([silo.train for silo in silos]),
        joined([silo.val for silo in silos]),
        silos[0].classes,
        torch.cat(targets) if targets else None,
        one_domain=any(silo.one_domain for silo in silos),
        task=silos[0].task,
    )
