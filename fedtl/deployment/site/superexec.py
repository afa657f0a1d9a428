"""
The site's SuperExec: Flower's own, except that it forks the ClientApp of a round from a process that has imported the
libraries and fedtl already. Each round still has its own process, but does not spend most of its time on imports.

The process that is forked runs no Python thread, has not used a GPU, and has drawn no random number. An approval names the fedtl
that is on the disk: where one of its files was written after the SuperExec started, a round gets a new Python instead, which
imports what is there. The new process receives its token through a pipe; Flower would write it into a command line, which every
user of the machine can read.
"""

import logging
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from flwr.supercore.cli import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, subprocess_executor

from fedtl._util.pace import Pace
from fedtl.deployment.flower_signals import wake_main_thread
from fedtl.deployment.flower_version import check_flower, run_main
from fedtl.deployment.site.approvals import CodeFile, code_files
from fedtl.deployment.site.home import Home
from fedtl.federation.flower_pulls import ask_again_soon

KNOWN_HASH = "8fca14d06c1531f0895952719e9194a3f62e9cd0de4148a6d2cdd5cdaf051f39"  # of subprocess_executor.py
LIBRARIES = (
    *("flwr.supernode.cli", "flwr.clientapp", "flwr.supercore.cli", "pydantic", "safetensors.torch"),
    *("torch", "torch._dynamo"),  # torch.optim imports the second when it is first used
    *("fedtl.federation.flower", "fedtl.deployment.site.client_app"),
)
PRIVACY_LIBRARIES = ("opacus", "dp_accounting.pld", "fedtl.privacy.per_sample.hooks")
SOURCE_LIBRARIES = {"table": ("pandas",)}
FORKED, FRESH = multiprocessing.get_context("forkserver"), multiprocessing.get_context("spawn")
FLOWERS_POLL, SHORTEST_POLL, LONGEST_POLL = 0.05, 0.1, 1.0  # seconds between two questions for a task
POLL_VARIABLE = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"


def libraries(home: Home) -> list[str]:
    """Return the modules that a round imports under these settings. The fork server ignores those not installed."""
    settings = home.settings
    privacy = PRIVACY_LIBRARIES if settings.policy.privacy else ()
    return [*LIBRARIES, *privacy, *SOURCE_LIBRARIES.get(settings.data.source, ())]


def arguments(home: Home) -> list[str]:
    """Return the arguments of Flower's command. It talks to a process of the same machine, with a shared secret, so without TLS."""
    address = f"127.0.0.1:{home.settings.port}"
    secret = ["--superexec-auth-secret-file", str(home.path / "exec.secret")]
    return ["--insecure", "--runtime-api-address", address, *secret]


def run_client_app(words: list[str]) -> None:
    """Run Flower's command in the new process."""
    import numpy
    from flwr.supernode.cli import flwr_clientapp

    wake_main_thread()
    ask_again_soon()
    numpy.random.seed()  # Python does it after a fork for its own generator; torch's is seeded before each use
    logging.root.handlers.clear()  # opacus adds one when it is imported, and every line would be logged twice
    sys.argv = ["flwr-clientapp", *words]
    flwr_clientapp()


@dataclass
class Launcher:
    """
    Replaces two methods of Flower's SubprocessExecutor. ``loaded``: fedtl's files when the process that is forked was started.
    """

    loaded: tuple[CodeFile, ...]
    pace: Pace = field(default_factory=lambda: Pace(SHORTEST_POLL, LONGEST_POLL))

    def reconcile(self) -> None:
        """Wait before the SuperExec asks for a task, which it does in a loop: the longer, the longer there was none."""
        time.sleep(self.pace.pause)

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a ClientApp, and no other task."""
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed(
                f"task type {spec.task_type!r} is refused; a site runs ClientApps only"
            )
        self.pace.restart()
        words = ["--runtime-api-address", spec.runtime_api_address, "--token", spec.token, "--insecure"]
        words += ["--parent-pid", str(spec.parent_pid)]
        context = FORKED if code_files() == self.loaded else FRESH
        try:
            context.Process(target=run_client_app, args=(words,), daemon=True).start()
        except (OSError, EOFError) as error:  # the next round is tried again
            return LaunchResult.failed(f"the process could not be started: {error or type(error).__name__}")
        return LaunchResult.accepted()


def main() -> None:
    home = Home.open(Path(sys.argv[1]))
    check_flower(subprocess_executor, KNOWN_HASH)
    launcher = Launcher(code_files())  # before the imports, so that a file that is written meanwhile differs
    FORKED.set_forkserver_preload(libraries(home))
    forkserver.ensure_running()  # so that the imports are done before the first round
    flowers: Any = subprocess_executor.SubprocessExecutor
    flowers.launch, flowers.reconcile = launcher.launch, launcher.reconcile
    os.environ[POLL_VARIABLE] = str(FLOWERS_POLL)
    sys.argv = ["flower-superexec", *arguments(home)]
    flower_superexec()


if __name__ == "__main__":
    run_main(main)
