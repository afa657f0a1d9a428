"""The table of data sources."""

from fedtl._util.registry import Registry
from fedtl.data import digits, huggingface, images, memory, npz, sql, table, torchvision_sets
from fedtl.data.source import Source, learns_nothing

DATA: Registry[Source] = Registry(
    "fedtl.data",
    {
        "digits": Source(
            digits.silos, digits.read, digits.ABOUT, False, digits.CLASSES, learns=learns_nothing
        ),
        "npz": Source(
            npz.silos, npz.read, npz.ABOUT, learns=learns_nothing
        ),  # the rows of an array have one shape
        "images": Source(images.silos, images.read, images.ABOUT, learns=images.learns),
        "table": Source(table.silos, table.read, table.ABOUT, learns=table.learns, missing_values=True),
        "torchvision": Source(
            torchvision_sets.silos, torchvision_sets.read, torchvision_sets.ABOUT, learns=learns_nothing
        ),
        "huggingface": Source(
            *(huggingface.silos, huggingface.read, huggingface.ABOUT),
            learns=huggingface.learns,
            missing_values=True,
        ),
        "sql": Source(sql.silos, sql.read, sql.ABOUT, missing_values=True),
        "memory": Source(memory.silos, memory.read, memory.ABOUT, needs_path=False, learns=memory.learns),
    },
)
