"""The table of data sources."""

from fedtl._util.registry import Registry
from fedtl.data import digits, images, npz, table
from fedtl.data.settings import DataSettings
from fedtl.data.source import Source


def _nothing(settings: DataSettings) -> frozenset[str]:
    return frozenset()


DATA: Registry[Source] = Registry(
    "fedtl.data",
    {
        "digits": Source(digits.silos, digits.read, digits.ABOUT, False, digits.CLASSES, _nothing),
        "npz": Source(npz.silos, npz.read, npz.ABOUT, learns=_nothing),  # all rows of an array have its shape
        "images": Source(images.silos, images.read, images.ABOUT, learns=images.learns),
        "table": Source(table.silos, table.read, table.ABOUT, learns=table.learns),
    },
)
