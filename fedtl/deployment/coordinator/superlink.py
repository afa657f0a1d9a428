"""
Calls the coordinator's own SuperLink: whether it runs, its nodes and its runs. The messages are Flower's protobuf messages over
HTTPS on 127.0.0.1. No command of Flower's is started, so a call takes milliseconds and depends neither on the working folder
nor on a proxy.
"""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.flower_names import HEALTH_CALL
from fedtl.deployment.site.keys import public_key_pem
from fedtl.errors import ConfigError

BUSY_SECONDS = 20.0  # in which a busy SuperLink answers: with 20 sites on two busy cores 2 s were too few
START_SECONDS = 60.0  # that a SuperLink may take to start
CALL_SECONDS = 30.0
MEDIA_TYPE = "application/protobuf"
UNREGISTERED = "unregistered"  # Flower's status of a node whose key it never accepts again
ONLINE = "online"
FINISHED = "finished"  # Flower's status of a run
LISTED_RUNS = 1000  # the newest
RUNS_AT_ONCE = 100  # that one call has cleaned up, at about 7 ms each
PASSING = (500, 502, 503, 504)  # codes of HTTP for what is wrong at the SuperLink and not with the request


class NoAnswer(ConfigError):
    """
    The SuperLink does not run, did not answer in time, or says that something is wrong with itself. It may have done what it was asked
    for all the same.
    """


@dataclass(frozen=True)
class FlowerNode:
    """
    A node of the SuperLink. ``expelled``: it was unregistered; Flower accepts its key never again. ``online``: its heartbeats arrive.
    """

    node: int
    expelled: bool
    online: bool = False


@dataclass(frozen=True)
class SuperLink:
    """The SuperLink of the coordinator's ``folder``. Each method raises ConfigError where it is refused, and NoAnswer."""

    folder: Path

    @property
    def healthy(self) -> bool:
        """Whether it answers; at once False where none runs."""
        try:
            with self._open(HEALTH_CALL, None, BUSY_SECONDS) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_healthy(self, seconds: float = START_SECONDS) -> None:
        """Wait until the SuperLink answers. Raises ConfigError where it has not answered after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self.healthy:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the SuperLink of {self.folder} did not start within {seconds:g} s; see the output of fedtl server run"
                )
            time.sleep(0.3)

    def register(self, key: str, name: str) -> int:
        """Register the OpenSSH public key of a site and return the id of its Flower node."""
        from flwr.proto import control_pb2 as control

        request = control.RegisterNodeRequest(public_key=public_key_pem(key), name=name)
        reply = self._call("register-node", request.SerializeToString())
        return int(control.RegisterNodeResponse.FromString(reply).node_id)

    def unregister(self, node: int) -> None:
        from flwr.proto import control_pb2 as control

        self._call("unregister-node", control.UnregisterNodeRequest(node_id=node).SerializeToString())

    def nodes(self) -> dict[bytes, FlowerNode]:
        """Return every node by its public key in PEM, those that were unregistered included."""
        from flwr.proto import control_pb2 as control

        body = self._call("list-nodes", control.ListNodesRequest().SerializeToString())
        return {
            node.public_key: FlowerNode(node.node_id, node.status == UNREGISTERED, node.status == ONLINE)
            for node in control.ListNodesResponse.FromString(body).nodes_info
        }

    def start_run(self, bundle: bytes, config: Mapping[str, str]) -> int:
        """Start a Flower run of a bundle, the content of a .fab file, and return its id. ``config``: the run's settings."""
        from flwr.proto import control_pb2 as control
        from flwr.proto.fab_pb2 import Fab
        from flwr.proto.transport_pb2 import Scalar

        settings = {key: Scalar(string=value) for key, value in config.items()}
        fab = Fab(hash_str=sha256(bundle).hexdigest(), content=bundle)
        request = control.StartRunRequest(fab=fab, override_config=settings)
        reply = control.StartRunResponse.FromString(self._call("start-run", request.SerializeToString()))
        if not reply.HasField("run_id"):
            raise ConfigError("the SuperLink did not start the run; see the output of fedtl server run")
        return int(reply.run_id)

    def stop_run(self, run: int) -> None:
        """Stop a Flower run. Raises ConfigError where it has ended already."""
        from flwr.proto import control_pb2 as control

        self._call("stop-run", control.StopRunRequest(run_id=run).SerializeToString())

    def unfinished_runs(self, study: str) -> list[int]:
        """Return the Flower runs of a study that have not ended, the newest last."""
        from flwr.proto import control_pb2 as control

        body = self._call("list-runs", control.ListRunsRequest(limit=LISTED_RUNS).SerializeToString())
        runs = [
            run
            for run in control.ListRunsResponse.FromString(body).run_dict.values()
            if run.override_config["study"].string == study and run.status.status != FINISHED
        ]
        return [int(run.run_id) for run in sorted(runs, key=lambda run: run.pending_at)]

    def clean_up(self) -> None:
        """
        Have Flower remove the messages and tensors of the ``LISTED_RUNS`` newest runs that have ended. It does so itself where a run ends in
        order, but for a list of names, and not where its ServerApp was killed. Flower cleans up the runs that it lists, which are the 20 newest
        where no more is asked for. SQLite uses the space again for later runs.
        """
        from flwr.proto import control_pb2 as control

        for first in range(0, LISTED_RUNS, RUNS_AT_ONCE):
            request = control.ListRunsRequest(limit=RUNS_AT_ONCE, skip=first)
            body = self._call("list-runs", request.SerializeToString())
            if len(control.ListRunsResponse.FromString(body).run_dict) < RUNS_AT_ONCE:
                return

    def _call(self, name: str, body: bytes) -> bytes:
        try:
            with self._open(f"/v1/control/{name}", body, CALL_SECONDS) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            with error:
                if error.code in PASSING:
                    raise NoAnswer(
                        f"the SuperLink of {self.folder} failed at {name} (HTTP {error.code}: {_reason(error)})"
                    ) from error
                raise ConfigError(f"the SuperLink refuses {name}: {_reason(error)}") from error
        except (OSError, HTTPException) as error:
            if isinstance(getattr(error, "reason", error), TimeoutError):
                raise NoAnswer(
                    f"the SuperLink of {self.folder} did not answer {name} within {CALL_SECONDS:g} s"
                ) from error
            raise NoAnswer(
                f"no SuperLink runs for {self.folder} ({error}); start it: fedtl server run {self.folder}"
            ) from error

    def _open(self, path: str, body: bytes | None, seconds: float) -> HTTPResponse:
        settings = load_server_settings(self.folder)
        context = ssl.create_default_context(cafile=str(self.folder / "tls" / "ca.crt"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        headers = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE}
        url = f"https://127.0.0.1:{settings.port}{path}"
        reply: HTTPResponse = opener.open(urllib.request.Request(url, body, headers), timeout=seconds)
        return reply


def _reason(error: urllib.error.HTTPError) -> str:
    """Return what the SuperLink says about an error, in one line."""
    text = error.read(4096).decode(errors="replace")
    try:
        content = json.loads(text)
        text = f"{content['detail']} {content.get('extra', '')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        text = text or str(error)
    return " ".join(text.split())[:300]
