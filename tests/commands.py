"""
The ``fedtl`` command in a process of its own that is forked from one which has imported the libraries, because imports take
2 to 3 seconds. Tests in which the start of the process matters use ``python -m fedtl``.
"""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest

COSTS = "FEDTL_TEST_COSTS"  # the environment variable with the folder of ``tests.costs``
ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = (
    *("torch._dynamo", "torch.multiprocessing", "opacus", "dp_accounting.pld", "pandas", "pydantic"),
    *("sklearn.datasets", "sklearn.impute", "sklearn.preprocessing", "matplotlib.figure", "scipy.optimize"),
    *("fedtl.cli.main", "fedtl.experiment.compare", "fedtl.report.run_page", "fedtl.audit.audit"),
    *("fedtl.audit.at_site", "fedtl.deployment.site.status", "fedtl.deployment.coordinator.bundle"),
    *("fedtl.simulation.worker", "tests.commands"),
)

if COSTS in os.environ:  # imported by the process that others are forked from, for its commands and workers
    from tests.costs import share_costs
    from tests.label_doubts import doubt_where, doubts_switch
    from tests.verified import verify_once

    share_costs(pytest.MonkeyPatch(), os.environ[COSTS])
    verify_once(pytest.MonkeyPatch())
    doubt_where(pytest.MonkeyPatch(), doubts_switch(os.environ[COSTS]))
gc.freeze()  # what was imported is no garbage in the processes that are forked


def start_fork_server():
    """Start the process that others are forked from; once more does nothing. It finds this checkout, wherever a test is."""
    CONTEXT.set_forkserver_preload(list(PRELOADED))
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()


def fork_instead_of_spawn(patch):
    """Fork the workers of engines and comparisons from the same process, where fedtl would start a new Python for each."""

    def get_context(method):
        assert method == "spawn"
        start_fork_server()
        return CONTEXT

    patch.setattr("torch.multiprocessing.get_context", get_context)


def _python(source, out):
    os.dup2(os.open(out, os.O_WRONLY), 1)
    exec(source, {"__name__": "forked"})


class ForkedPython:
    """A process that runs this source. What it prints is read from ``stdout`` while it runs, or by ``communicate``."""

    def __init__(self, source):
        start_fork_server()
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder) / "pipe"
            os.mkfifo(pipe)
            self._process = CONTEXT.Process(target=_python, args=(source, str(pipe)))
            self._process.start()
            self.stdout, self.pid = pipe.open(), self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def wait(self, timeout=100):
        self._process.join(timeout)
        assert self.returncode is not None, f"no end within {timeout} s"

    def communicate(self, timeout=100):
        said = self.stdout.read()
        self.stdout.close()
        self.wait(timeout)
        return said


def _command(words, folder, environment, files, imports):
    import numpy

    numpy.random.seed()  # Python does it after a fork for its own generator; torch's is seeded before each use
    logging.root.handlers.clear()  # opacus adds one when it is imported
    for name, number in zip(("in", "out", "err"), range(3), strict=True):
        path = os.devnull if name == "in" else files[name]
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for name in ("tests.forked_workers", *imports):
        importlib.import_module(name)
    sys.argv = words
    if words[0] != "fedtl":
        runpy.run_path(words[0], run_name="__main__")
        return
    from fedtl.cli.main import main

    main()


def fedtl(*words, cwd=None, env=None, timeout=300, imports=()):
    """
    Run the command as a shell would, after importing ``imports``; return its exit code and what it wrote. Its workers are forked, too:
    how they start is a matter of simulation/test_processes.py.
    """
    return run_forked(["fedtl", *map(str, words)], cwd, env, timeout, imports)


def start_forked(words, log, cwd, env):
    """Start a command that goes on, and return its process; what it prints goes to the file ``log``."""
    start_fork_server()
    Path(log).touch()
    given = (words, str(cwd), dict(env), {"out": str(log), "err": str(log)}, ())
    process = CONTEXT.Process(target=_command, args=given)
    process.start()
    return process


def run_forked(words, cwd=None, env=None, timeout=300, imports=()):
    """Run ``fedtl`` or, where the first word is another, that file of Python; likewise."""
    start_fork_server()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / name) for name in ("out", "err")}
        for path in files.values():
            Path(path).touch()
        where = str(cwd or Path.cwd())
        given = (words, where, dict(env or os.environ), files, imports)
        process = CONTEXT.Process(target=_command, args=given)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{' '.join(words)}: no end within {timeout} s")
        out, err = (Path(files[name]).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)
