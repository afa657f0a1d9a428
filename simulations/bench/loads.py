"""
The loads that every contender trains, with generated data.

Rows and labels are random: only time is measured, and it does not depend on the values.
"""

from dataclasses import dataclass

import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.models.net import ModelSpec
from fedtl.models.registry import model_spec

CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Load:
    """In a round, each of ``silos`` evaluates the received model on ``val_rows`` rows and trains one epoch of SGD."""

    name: str
    model: str
    shape: tuple[int, ...]
    silos: int
    rows: int
    val_rows: int
    batch: int = 32
    lr: float = 0.05
    momentum: float = 0.9

    def names(self) -> list[str]:
        return [f"silo-{number:04d}" for number in range(self.silos)]

    def data(self, silo: str) -> SiloDataset:
        """The rows of a silo, the same in every process."""
        generator = torch.Generator().manual_seed(int(silo.removeprefix("silo-")))
        return SiloDataset(self._rows(self.rows, generator), self._rows(self.val_rows, generator), CLASSES)

    def model_spec(self) -> ModelSpec:
        """The model, with the same initial weights in every process."""
        return model_spec(self.model, self.shape, seed=0)

    def _rows(self, count: int, generator: torch.Generator) -> Dataset:
        x = torch.randn(count, *self.shape, generator=generator)
        return Dataset(x, torch.randint(len(CLASSES), (count,), generator=generator))


LOADS: dict[str, Load] = {
    load.name: load
    for load in (
        Load("mlp", "mlp", (1, 8, 8), silos=6, rows=224, val_rows=64),
        Load("convnet", "convnet", (3, 28, 28), silos=8, rows=256, val_rows=64),
        Load("resnet18", "torchvision/resnet18", (3, 64, 64), silos=4, rows=64, val_rows=32, lr=0.01),
        Load("linear", "linear", (20,), silos=1000, rows=50, val_rows=10),
        Load("school", "linear", (28,), silos=139, rows=83, val_rows=10),
    )
}
ABOUT = {
    "mlp": "the tiny MLP on digits, for the overhead of a framework",
    "convnet": "three convolutions with BatchNorm, 8 silos x 256 images of 28 px",
    "resnet18": "ResNet-18 at 64 px, 4 silos x 64 images",
    "linear": "a linear model of 20 columns, 1,000 silos x 50 rows",
    "school": "a linear model, as many silos, columns and rows as School has",
}


def crowd(silos: int) -> Load:
    """Many small silos of the tiny MLP."""
    return Load("silos", "mlp", (1, 8, 8), silos, rows=50, val_rows=10)


def by_name(name: str, quick: bool) -> Load:
    """The load of this name. ``quick``: small enough for a test; its times mean nothing."""
    load = LOADS[name]
    return Load(**{**vars(load), "silos": 2, "rows": 64, "val_rows": 32}) if quick else load
