"""In which sizes images were read, before ``data.size`` gave them one."""

from dataclasses import dataclass

from fedtl.data.settings import DataSettings
from fedtl.data.source import Raw

CHANGED = 1.1  # the longest side over the shortest one from which a square has another shape


@dataclass(frozen=True)
class ImageSizes:
    """
    ``low`` and ``high``: the shortest and the longest sides in pixels, by axis: height and width, of volumes depth before them.
    ``changed``: the share of images whose shape a square, or of volumes a cube, changes by more than a tenth; ``worst``: the sides
    of the image whose shape it changes most.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    changed: float
    worst: tuple[int, ...]

    def __str__(self) -> str:
        return _px(self.low) + (f" to {_px(self.high)}" if self.high != self.low else "")


def sizes_before(raw: Raw, settings: DataSettings) -> ImageSizes | None:
    """Return in which sizes a silo's images were read; None for other inputs, and where all had ``data.size`` already."""
    x = raw.train.x
    if settings.size == "native" or x.ndim < 3 or settings.sequence is not None:
        return None
    axes = 3 if settings.kind == "volumes" else 2
    counts = raw.sizes or {tuple(x.shape[1 : 1 + axes]): len(x)}
    if set(counts) == {(int(settings.size),) * axes}:
        return None
    changed = sum(count for sides, count in counts.items() if max(sides) > CHANGED * min(sides))
    return ImageSizes(
        tuple(map(min, zip(*counts, strict=True))),
        tuple(map(max, zip(*counts, strict=True))),
        changed / sum(counts.values()),
        max(counts, key=lambda sides: (max(sides) / min(sides), sides)),
    )


def _px(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))
