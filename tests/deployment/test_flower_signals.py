"""The processes of a round end with those that started them, also while they wait for something that never comes."""

import subprocess
import sys

import pytest

from tests.real_processes import around

WAITING = """
import subprocess, sys, threading
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.exit import register_signal_handlers
from flwr.supercore.telemetry import EventType

def wait_for_ever(event):
    register_signal_handlers(event)
    ended = subprocess.Popen(["true"])
    ended.wait()
    start_parent_process_monitor(ended.pid)
    print("waits", flush=True)
    threading.Event().wait()
"""
CLIENT = """
import flwr.supernode.cli
from fedtl.deployment.site import superexec
flwr.supernode.cli.flwr_clientapp = lambda: wait_for_ever(EventType.FLWR_CLIENTAPP_RUN_LEAVE)
superexec.run_client_app([])
"""
SERVER = """
from fedtl.deployment.coordinator.server_app import server_app
server_app()
wait_for_ever(EventType.FLWR_SERVERAPP_RUN_LEAVE)
"""


@pytest.mark.parametrize("app", [CLIENT, SERVER])
def test_an_app_that_waits_for_a_thread_ends_when_what_started_it_was_killed(app):
    """Flower notices in a thread that its parent is gone."""
    quiet = around(FLWR_TELEMETRY_ENABLED="0")
    with subprocess.Popen(
        [sys.executable, "-c", WAITING + app], env=quiet, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"waits\n"
            process.wait(20)
        finally:
            process.kill()
