"""
Privacy costs that the processes of one test session share: a file for each number, named by all that it follows from.
Tests whose subject is the accounting compute them.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from fedtl.privacy import accounting, prv


def share_costs(patch, folder):
    """Look up in the folder what a schedule costs, by fedtl's accountant and by the one that checks it."""
    for module in (accounting, prv):
        patch.setattr(module, "_composed", _shared(module, Path(folder)))


def _shared(module, folder):
    computed = module._composed

    @lru_cache(1024)
    def composed(*schedule):
        grid = (accounting.GRID_WIDTH, accounting.GRID_STEPS, accounting.GRID_LOSS)
        file = folder / hashlib.sha256(repr((module.__name__, schedule, grid)).encode()).hexdigest()
        if not file.exists():
            own = file.with_suffix(f".{os.getpid()}")
            own.write_text(repr(computed(*schedule)))
            own.replace(file)
        value = file.read_text()
        return None if value == "None" else float(value)

    return composed
