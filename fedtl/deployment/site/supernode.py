"""
The site's SuperNode: Flower's own, restricted to the bundles that the site approved.

Flower 1.42.0 runs every app that its server names. This module replaces the one function in which Flower could refuse an
app. It starts nothing where that function's file is not exactly the one that it was written for.
"""

import logging
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flwr.supernode.start_client_internal as node
from flwr.supercore import heartbeat
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode

from fedtl._util.pace import Pace
from fedtl.deployment.bundle_contents import check_bundle_contents
from fedtl.deployment.flower_version import check_flower, run_main
from fedtl.deployment.site.approvals import bundles_approved_without_terms, is_approved, read_approvals
from fedtl.deployment.site.covered import APPROVED_WITHOUT_TERMS
from fedtl.deployment.site.egress_lines import Disconnected
from fedtl.deployment.site.gate import wait_until_admitted, warnings_before_connecting
from fedtl.deployment.site.home import Home
from fedtl.errors import FedTLError
from fedtl.federation.flower_pulls import ask_again_soon
from fedtl.federation.policy import Code

SHORTEST_POLL, LONGEST_POLL = 0.2, 10.0  # seconds between two requests for a message; Flower waits 3
LOCAL_POLL = 0.05  # seconds between two looks for the reply in this process; Flower waits 0.5
KNOWN_HASH = "d6342f743fdf768f63305b88414ae2654e9a21bda153739da19c608e8d375067"  # of start_client_internal.py


def refusal_reason(home: Home, content: bytes) -> str | None:
    """Return why a bundle may not run here; None for an approved one."""
    digest = sha256(content).hexdigest()
    if not is_approved(home.approved, digest):
        if digest in bundles_approved_without_terms(home.approved):
            return f"bundle {digest} was {APPROVED_WITHOUT_TERMS}"
        count = len(read_approvals(home.approved))
        return f"bundle {digest} is not approved (approved bundles: {count}); to allow it, rehearse and approve it"
    try:
        check_bundle_contents(content)
    except FedTLError as error:
        return f"bundle {digest}: {error}"
    return None


def restrict_to_approved(home: Home) -> None:
    """Make Flower in this process run approved bundles only. Raises ConfigError for another version of Flower."""
    check_flower(node, KNOWN_HASH)
    original: Callable[..., Any] = node._pull_and_store_message
    pace = Pace(SHORTEST_POLL, LONGEST_POLL)

    def pull(*, get_run: Any, get_fab: Any, trusted_entities: Any = None, **others: Any) -> Any:
        task_types: dict[int, str] = {}

        def noting_type(run_id: int) -> Any:
            run = get_run(run_id)
            task_types[run_id] = run.primary_task_type
            return run

        def marking_for_check(digest: str, run_id: int) -> Fab:
            fab = get_fab(digest, run_id)
            return Fab(fab.hash_str, fab.content, _verifications(home, task_types.get(run_id)))

        while True:
            run = original(
                get_run=noting_type,
                get_fab=marking_for_check,
                trusted_entities={"site": "approved"},
                **others,
            )
            if run is not None:
                pace.restart()
                return run
            time.sleep(pace.pause)

    def verified(fab: Fab, trusted_entities: Any) -> bool:
        if reason := refusal_reason(home, fab.content):
            home.record.refused(None, Code.PLAN, reason)
            return False
        return True

    constants: tuple[Any, ...] = heartbeat, fleet_http_connection
    for module in constants:
        module.HEARTBEAT_DEFAULT_INTERVAL = home.settings.heartbeat
    node._pull_and_store_message = pull  # type: ignore[assignment]
    node._verify_fab = verified
    node.time = SimpleNamespace(sleep=lambda seconds: time.sleep(LOCAL_POLL))  # type: ignore


def _verifications(home: Home, task_type: str | None) -> dict[str, str]:
    """Return what makes Flower call ``_verify_fab``; nothing, so that Flower refuses it, for all but a ServerApp's run."""
    if task_type == TaskType.SERVER_APP:
        return {"valid_license": "site"}
    reason = f"a run of type {task_type!r} asks for a round; only a ServerApp may"
    home.record.refused(None, Code.PLAN, reason)
    return {}


class _LastError(logging.Handler):
    """Keeps Flower's last error, which says why it disconnected."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.text = " ".join(record.getMessage().split())[:300]


def arguments(home: Home) -> list[str]:
    """Return the arguments of Flower's command: paths of secrets, never their content."""
    settings, path = home.settings, home.path
    return [
        *("--superlink", settings.server, "--root-certificates", str(home.at(settings.certificate))),
        *("--auth-supernode-private-key", str(path / "node.key")),
        *("--host", "127.0.0.1", "--port", str(settings.port), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(path / "exec.secret")),
    ]


def _note(home: Home, reason: str) -> None:
    home.record.append(Disconnected(reason=reason))
    print(reason, file=sys.stderr, flush=True)


def main() -> None:
    home = Home.open(Path(sys.argv[1]))
    ask_again_soon()
    restrict_to_approved(home)
    for warning in warnings_before_connecting(home):
        _note(home, warning)
    wait_until_admitted(home, lambda reason: _note(home, reason))
    last_error = _LastError()
    logging.getLogger("flwr").addHandler(last_error)
    sys.argv = ["flower-supernode", *arguments(home)]
    try:
        flower_supernode()
    except SystemExit as end:
        if end.code:
            home.record.append(Disconnected(reason=last_error.text))
        raise


if __name__ == "__main__":
    run_main(main)
