"""The calls to the SuperLink, read with Flower's own messages by a server in its place."""

import http.server
import json
import socket
import ssl
import threading
from hashlib import sha256

import pytest
from flwr.proto import control_pb2 as control

from fedtl.deployment.coordinator import superlink
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.coordinator.superlink import FlowerNode, NoAnswer, SuperLink
from fedtl.deployment.site.keys import create_node_key, public_key_pem, read_public_key
from fedtl.errors import ConfigError
from tests.real_processes import Federation, free_port

REPLIES = {
    "start-run": control.StartRunResponse(run_id=2**63 + 5),
    "stop-run": control.StopRunResponse(success=True),
    "register-node": control.RegisterNodeResponse(node_id=2**64 - 1),
}
CODES = {}  # of HTTP, of the calls without a reply; 409 where there is none


@pytest.fixture
def served(tmp_path, monkeypatch):
    """(SuperLink, calls). The working folder has a folder called fedtl, and a proxy is set that does not exist."""
    folder, calls = tmp_path / "srv", []
    create_server(folder, "localhost", "127.0.0.1:1", free_port())

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            name = self.path.removeprefix("/v1/control/")
            calls.append((name, self.rfile.read(int(self.headers["Content-Length"]))))
            reply = REPLIES.get(name)
            self.send_response(200 if reply else CODES.get(name, 409))
            self.end_headers()
            said = json.dumps({"code": 7, "detail": "Public key\n already in use.", "extra": "x"}).encode()
            self.wfile.write(reply.SerializeToString() if reply else said)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", load_server_settings(folder).port), Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls" / "server.pem", folder / "tls" / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    (tmp_path / "fedtl").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    yield SuperLink(folder), calls
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_run_is_started_from_the_bundle_itself(served):
    link, calls = served
    assert link.start_run(b"the bundle", {"study": "first", "experiment": "digits"}) == 2**63 + 5
    link.stop_run(2**63 + 5)
    request = control.StartRunRequest.FromString(calls[0][1])
    assert (request.fab.content, request.fab.hash_str) == (b"the bundle", sha256(b"the bundle").hexdigest())
    assert {key: value.string for key, value in request.override_config.items()} == {
        "study": "first",
        "experiment": "digits",
    }
    assert control.StopRunRequest.FromString(calls[1][1]).run_id == 2**63 + 5


def test_a_key_is_registered_as_flower_reads_it(served, tmp_path, monkeypatch):
    link, calls = served
    create_node_key(tmp_path / "k", "clinic")
    assert link.register(read_public_key(tmp_path / "k.pub"), "clinic") == 2**64 - 1
    request = control.RegisterNodeRequest.FromString(calls[0][1])
    pem = public_key_pem(read_public_key(tmp_path / "k.pub"))
    assert (request.public_key, request.name) == (pem, "clinic")
    nodes = control.ListNodesResponse()
    nodes.nodes_info.add(node_id=7, public_key=pem, status="unregistered")
    nodes.nodes_info.add(node_id=8, public_key=b"other", status="offline")
    monkeypatch.setitem(REPLIES, "list-nodes", nodes)
    assert link.nodes() == {pem: FlowerNode(7, True), b"other": FlowerNode(8, False)}


def test_a_refusal_is_one_line(served, tmp_path):
    link, _ = served
    with pytest.raises(ConfigError) as error:
        link.unregister(7)
    assert str(error.value).endswith(" refuses unregister-node: Public key already in use. x")
    create_server(tmp_path / "other", "localhost", "127.0.0.1:1", free_port())
    other = SuperLink(tmp_path / "other")
    assert not other.healthy
    with pytest.raises(NoAnswer, match="server run"):
        other.nodes()


def test_an_answer_that_does_not_come_is_no_refusal(served, tmp_path, monkeypatch):
    link, _ = served
    with pytest.raises(ConfigError) as error:
        link.unregister(7)
    assert not isinstance(error.value, NoAnswer)
    monkeypatch.setitem(CODES, "unregister-node", 503)
    with pytest.raises(NoAnswer, match="HTTP 503: Public key"):
        link.unregister(7)
    monkeypatch.setitem(CODES, "unregister-node", 501)
    with pytest.raises(ConfigError, match="refuses unregister-node"):
        link.unregister(7)
    monkeypatch.setattr(superlink, "CALL_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        Federation.change(link.folder / "server.toml", port=silent.getsockname()[1])
        with pytest.raises(NoAnswer, match="stop-run within 0.2 s"):
            link.stop_run(5)


def test_the_runs_of_a_study_that_have_not_ended(served, monkeypatch):
    link, calls = served
    listed = control.ListRunsResponse()
    for number, (study, status) in enumerate(
        [
            ("first", "running"),
            ("first", "pending"),
            ("first", "finished"),
            ("second", "running"),
            ("", "running"),
        ]
    ):
        run = listed.run_dict[number]
        run.run_id, run.status.status, run.pending_at = 2**63 + number, status, f"2026-11-27T0{9 - number}"
        if study:
            run.override_config["study"].string = study
    monkeypatch.setitem(REPLIES, "list-runs", listed)
    assert link.unfinished_runs("first") == [2**63 + 1, 2**63]
    assert control.ListRunsRequest.FromString(calls[-1][1]).limit == 1000


def test_every_run_that_has_ended_is_cleaned_up_and_not_only_the_newest(served, monkeypatch):
    link, calls = served
    full, last = control.ListRunsResponse(), control.ListRunsResponse()
    for number in range(100):
        full.run_dict[number].run_id = number
    last.run_dict[7].run_id = 7

    def asked():
        requests = [control.ListRunsRequest.FromString(body) for _, body in calls]
        calls.clear()
        return [(request.skip, request.limit) for request in requests]

    monkeypatch.setitem(REPLIES, "list-runs", last)
    link.clean_up()
    assert asked() == [(0, 100)]
    monkeypatch.setitem(REPLIES, "list-runs", full)
    link.clean_up()
    assert asked() == [(first, 100) for first in range(0, 1000, 100)]
