"""
The coordinator's SuperExec: Flower's own, except that what a ServerApp writes, such as the error with which it ends, is in the output of
``fedtl server run``. Flower 1.42.0 discards it.
"""

from flwr.supercore.cli import flower_superexec
from flwr.supercore.superexec.plugin.base_exec_plugin import AutoExecPlugin

from fedtl.deployment.flower_version import run_main


def main() -> None:
    AutoExecPlugin.suppress_output = False
    flower_superexec()


if __name__ == "__main__":
    run_main(main)
