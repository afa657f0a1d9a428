"""Which two-dimensional images of a volume or of a file of several frames are rows (``data.slices``)."""

import math

from fedtl.data.settings import SliceSettings
from fedtl.data.source import Array

FRAME = "frame"


def chosen(planes: Array, settings: SliceSettings) -> Array:
    """Return the planes [S, H, W] between the shares ``start`` and ``stop`` of S, one of each ``every`` planes, and at least one."""
    count = len(planes)
    first = min(math.floor(settings.start * count), count - 1)
    last = max(math.ceil(settings.stop * count), first + 1)
    return planes[first : last : settings.every]
