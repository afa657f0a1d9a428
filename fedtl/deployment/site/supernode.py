"""
The institution's SuperNode: Flower's own, held to the site's list of approved bundles.

Flower 1.41.0 runs whatever app its server names. Here the one place where it could refuse one is taken over; if that
place is not exactly the one that was read when this was written, nothing starts.
"""

import logging
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import flwr.supernode.start_client_internal as node
from flwr.supercore import heartbeat
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode

from fedtl.deployment.bundle_contents import check_contents
from fedtl.deployment.site.approvals import approvals, earlier, permitted
from fedtl.deployment.site.covered import EARLIER
from fedtl.deployment.site.flower_version import begin, check
from fedtl.deployment.site.home import Home
from fedtl.errors import FedTLError
from fedtl.federation.policy import Code

LOOK = 1.0  # seconds between two questions whether there is a message; Flower's own are 3 apart
KNOWN = "d6342f743fdf768f63305b88414ae2654e9a21bda153739da19c608e8d375067"  # of start_client_internal.py


def refusal(home: Home, content: bytes) -> str | None:
    """Why a bundle may not run here; None for an approved one."""
    digest = sha256(content).hexdigest()
    if not permitted(home.approved, digest):
        if digest in earlier(home.approved):
            return f"bundle {digest} was {EARLIER}"
        listed = len(approvals(home.approved))
        return f"bundle {digest} is not approved ({listed} are)"
    try:
        check_contents(content)
    except FedTLError as error:
        return f"bundle {digest}: {error}"
    return None


def pin(home: Home) -> None:
    """From here on this process runs approved bundles only."""
    check(node, KNOWN)
    original: Callable[..., Any] = node._pull_and_store_message

    def pull(*, get_run: Any, get_fab: Any, trusted_entities: Any = None, **others: Any) -> Any:
        kinds: dict[int, str] = {}

        def its_run(run_id: int) -> Any:
            run = get_run(run_id)
            kinds[run_id] = run.primary_task_type
            return run

        def its_fab(digest: str, run_id: int) -> Fab:
            fab = get_fab(digest, run_id)
            if kinds.get(run_id) != TaskType.SERVER_APP:
                home.record.refused(
                    None, Code.PLAN, f"a run of kind {kinds.get(run_id)!r}; only server apps may ask"
                )
                return Fab(fab.hash_str, fab.content, {})
            return Fab(fab.hash_str, fab.content, {"valid_license": "site"})

        while True:
            run = original(get_run=its_run, get_fab=its_fab, trusted_entities={"site": "approved"}, **others)
            if run is not None:
                return run
            time.sleep(LOOK)

    def verified(fab: Fab, trusted_entities: Any) -> bool:
        if reason := refusal(home, fab.content):
            home.record.refused(None, Code.PLAN, reason)
            return False
        return True

    constants: tuple[Any, ...] = heartbeat, fleet_http_connection
    for module in constants:
        module.HEARTBEAT_DEFAULT_INTERVAL = home.settings.heartbeat
    node._pull_and_store_message = pull  # type: ignore[assignment]
    node._verify_fab = verified


class _Last(logging.Handler):
    """The first line of Flower's last error: why it went away."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.text = " ".join(record.getMessage().split())[:300]


def arguments(home: Home) -> list[str]:
    """Of Flower's command. Paths, never what is in them."""
    its, path = home.settings, home.path
    return [
        *("--superlink", its.server, "--root-certificates", str(home.at(its.certificate))),
        *("--auth-supernode-private-key", str(path / "node.key")),
        *("--host", "127.0.0.1", "--port", str(its.port), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(path / "exec.secret")),
    ]


def main() -> None:
    home = Home.open(Path(sys.argv[1]))
    pin(home)
    last = _Last()
    logging.getLogger("flwr").addHandler(last)
    sys.argv = ["flower-supernode", *arguments(home)]
    try:
        flower_supernode()
    except SystemExit as end:
        if end.code:
            home.record.note("disconnected", reason=last.text)
        raise


if __name__ == "__main__":
    begin(main)
