"""What every contender of ``deploy.py`` trains. Rows and labels are random: only time is measured."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = 10


class SiteFailed(Exception):
    """A round did not get the update of every site, so its time means nothing."""


@dataclass(frozen=True)
class DeployLoad:
    """
    In a round each of ``sites`` trains one epoch of SGD over ``rows`` training rows. ``bar``: the most seconds that a round of
    fedtl should take.
    """

    name: str
    model: str
    shape: tuple[int, int, int]
    sites: int
    rows: int
    bar: float
    batch: int = 32
    lr: float = 0.01

    def names(self) -> list[str]:
        return [f"site-{number:02d}" for number in range(self.sites)]


LOADS = {
    load.name: load
    for load in (
        DeployLoad("tiny", "mlp", (1, 8, 8), sites=3, rows=96, bar=3.0),
        DeployLoad("light", "mlp", (1, 8, 8), sites=20, rows=32, bar=15.0),
        DeployLoad("resnet18", "torchvision/resnet18", (3, 64, 64), sites=3, rows=64, bar=15.0),
    )
}


def write_rows(load: DeployLoad, folder: Path) -> None:
    """Write ``<site>.npz`` for every site."""
    folder.mkdir()
    channels, height, width = load.shape
    for number, name in enumerate(load.names()):
        draw = np.random.default_rng(number)
        arrays = {}
        for part, count in (("train", load.rows), ("val", 16), ("test", 16)):
            arrays[f"{part}_x"] = draw.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
            arrays[f"{part}_y"] = np.arange(count) % CLASSES
        np.savez(folder / f"{name}.npz", **arrays)
