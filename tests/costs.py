"""
Privacy costs that the processes of one test session share: a file for each number, named by all that it follows from.
Tests whose subject is the accounting compute them.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from fedtl.privacy import accounting


def shared_costs(folder):
    """Return a function to put in the place of ``accounting._composed``."""
    computed = accounting._composed

    @lru_cache(1024)
    def composed(events, delta, replace_one):
        grid = (accounting.GRID_WIDTH, accounting.GRID_STEPS, accounting.GRID_LOSS)
        name = hashlib.sha256(repr((events, delta, replace_one, grid)).encode()).hexdigest()
        file = Path(folder) / name
        if file.exists():
            return float(file.read_text())
        value = computed(events, delta, replace_one)
        own = file.with_suffix(f".{os.getpid()}")
        own.write_text(repr(value))
        own.replace(file)
        return value

    return composed
