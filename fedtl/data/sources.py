"""The table of data sources."""

from fedtl.data import digits, images, npz, table
from fedtl.data.raw import Source
from fedtl.tables import Table

DATA: Table[Source] = Table(
    "fedtl.data",
    {
        "digits": Source(digits.silos, digits.read, digits.ABOUT, needs_path=False),
        "npz": Source(npz.silos, npz.read, npz.ABOUT),
        "images": Source(images.silos, images.read, images.ABOUT),
        "table": Source(table.silos, table.read, table.ABOUT),
    },
)
