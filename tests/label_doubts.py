"""
Runs that do not look for doubtful labels: a fifth of a run's time, in which each silo trains once more. The files whose subject it is,
or that compare a run with one of a process that starts anew, are LABELS_DOUBTED of ``tests.conftest``.

Whether they are looked for is a file, because the commands and workers of a test are forked from a process that imported this before.
"""

import os
from pathlib import Path

from fedtl.training import finish


def doubts_switch(folder):
    """Return the file of this worker of pytest and of all that it forks."""
    return Path(folder) / f"doubts-{os.environ.get('PYTEST_XDIST_WORKER', '')}"


def doubt_where(patch, switch):
    """Look for doubtful labels only while the file ``switch`` is there."""
    sound = finish._doubts
    patch.setattr(finish, "_doubts", lambda *given: sound(*given) if switch.exists() else None)
