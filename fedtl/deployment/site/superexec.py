"""
The institution's SuperExec: Flower's own, except that the ClientApp of a round is forked from a process that has its
libraries loaded. Each round is a process of its own all the same; most of what it took was importing torch.

That process has loaded other people's libraries and nothing else: the fedtl that an approval names is read from the
disk in each round. It runs no thread of Python's, has touched no GPU and drawn no number. What it forks is told its
token through a pipe, where Flower would write it into a command line that everybody on the machine can read.
"""

import logging
import multiprocessing
import sys
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from flwr.supercore.cli import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, subprocess_executor

from fedtl.deployment.site.flower_version import begin, check
from fedtl.deployment.site.home import Home

KNOWN = "8fca14d06c1531f0895952719e9194a3f62e9cd0de4148a6d2cdd5cdaf051f39"  # of subprocess_executor.py
ALWAYS = (
    *("flwr.supernode.cli", "flwr.clientapp", "flwr.supercore.cli", "pydantic", "safetensors.torch"),
    *("torch", "torch._dynamo"),  # the second is what torch.optim imports when it is first used
)
PRIVATE = ("opacus", "dp_accounting.pld")
SOURCES = {"table": ("pandas",)}
CONTEXT = multiprocessing.get_context("forkserver")


def libraries(home: Home) -> list[str]:
    """What a round of this home imports, as far as its settings say; one that is not installed is left out."""
    its = home.settings
    return [*ALWAYS, *(PRIVATE if its.policy.privacy else ()), *SOURCES.get(its.data.source, ())]


def arguments(home: Home) -> list[str]:
    """Of Flower's command. Between two processes of one machine, under a shared secret: no certificate is needed."""
    address = f"127.0.0.1:{home.settings.port}"
    secret = ["--superexec-auth-secret-file", str(home.path / "exec.secret")]
    return ["--insecure", "--runtime-api-address", address, *secret]


def client_app(words: list[str]) -> None:
    """In the new process: Flower's own command."""
    import numpy
    from flwr.supernode.cli import flwr_clientapp

    numpy.random.seed()  # Python seeds its own generator in a fork, and torch's is seeded by whoever draws
    logging.root.handlers.clear()  # opacus makes one when it is imported: everything would be said twice
    sys.argv = ["flwr-clientapp", *words]
    flwr_clientapp()


def launch(self: Any, spec: ExecutionSpec) -> LaunchResult:
    """In place of a method of Flower's: ClientApps, and no other kind of task."""
    if spec.task_type != TaskType.CLIENT_APP:
        return LaunchResult.failed(f"a task of kind {spec.task_type!r}; a site runs ClientApps only")
    words = ["--runtime-api-address", spec.runtime_api_address, "--token", spec.token, "--insecure"]
    words += ["--parent-pid", str(spec.parent_pid)]
    try:
        CONTEXT.Process(target=client_app, args=(words,), daemon=True).start()
    except (OSError, EOFError) as error:  # the next round tries again
        return LaunchResult.failed(f"no process could be forked: {error or type(error).__name__}")
    return LaunchResult.accepted()


def main() -> None:
    home = Home.open(Path(sys.argv[1]))
    check(subprocess_executor, KNOWN)
    CONTEXT.set_forkserver_preload(libraries(home))
    forkserver.ensure_running()  # it loads them while nobody waits yet
    subprocess_executor.SubprocessExecutor.launch = launch  # type: ignore[method-assign]
    sys.argv = ["flower-superexec", *arguments(home)]
    flower_superexec()


if __name__ == "__main__":
    begin(main)
