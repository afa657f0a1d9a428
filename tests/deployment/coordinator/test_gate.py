"""The gate: nginx, as ``fedtl server init`` configures it, in front of a server that answers every call."""

import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from fedtl.deployment.coordinator import server
from fedtl.deployment.coordinator.admitted import AdmittedSite, write_admitted
from fedtl.deployment.coordinator.nginx import SMALL_CALLS, SUPERNODE_CALLS
from fedtl.deployment.coordinator.reply_size import ID_BYTES, NAME_BYTES, RECORD_BYTES, ReplySize, reply_size
from fedtl.deployment.coordinator.server import create_server, server_commands, write_configuration
from fedtl.deployment.coordinator.settings import load_server_settings
from fedtl.deployment.coordinator.watch import BundleWatch, GateWatch, gate_text
from fedtl.deployment.site.gate import ask_gate, not_admitted, wait_until_admitted
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.keys import public_key_pem, read_public_key
from fedtl.errors import ConfigError
from tests.real_processes import Federation, free_port, wait

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MIB = 1 << 20


class Behind(http.server.BaseHTTPRequestHandler):
    """Answers with the path and the size of the body. A body that begins with "wait" is answered once ``go`` is set."""

    go, waiting, seen = threading.Event(), threading.Semaphore(0), []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.path)
        if body.startswith(b"wait"):
            self.waiting.release()
            self.go.wait(10)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.path} {len(body)}".encode())

    do_GET = do_PUT = do_POST

    def log_message(self, *args):
        pass


def header(home):
    return b64encode(public_key_pem(read_public_key(home.path / "node.key.pub"))).decode()


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """``call(path, body, method, key)``; two sites, of which ``clinic`` is admitted; a bundle with tensors of 4 MiB and 4 bytes."""
    if NGINX is None:
        pytest.skip("no nginx: apt-get install nginx-light")
    tmp = tmp_path_factory.mktemp("gate")
    folder = tmp / "server of {two}; #1, it's ü"
    create_server(folder, "localhost", f"127.0.0.1:{free_port()}", free_port())
    settings = load_server_settings(folder)
    homes = {
        name: Home.create(tmp / name, name, settings.listen.replace("127.0.0.1", "localhost"))
        for name in ("clinic", "late")
    }
    for home in homes.values():
        shutil.copy(folder / "tls" / "ca.crt", home.path)
    write_admitted(
        folder, {"clinic": AdmittedSite(read_public_key(homes["clinic"].path / "node.key.pub"), 7)}
    )
    (folder / "bundles" / "b").mkdir(parents=True)
    save_file({"a": torch.zeros(MIB), "b": torch.zeros(1)}, folder / "bundles" / "b" / "start.safetensors")
    watch = GateWatch(folder, write_configuration(folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls" / "server.pem", folder / "tls" / "server.key")
    behind = http.server.ThreadingHTTPServer(("127.0.0.1", settings.port), Behind)
    behind.socket = context.wrap_socket(behind.socket, server_side=True)
    thread = threading.Thread(target=behind.serve_forever, args=(0.02,))
    thread.start()
    nginx = subprocess.Popen(server_commands(folder, ["gate"])["gate"], stderr=subprocess.DEVNULL)
    watch.nginx = nginx.pid
    client = ssl.create_default_context(cafile=str(folder / "tls" / "ca.crt"))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=client)
    )

    admitted = header(homes["clinic"])

    def call(path, body=b"", method="POST", key=admitted):
        url = f"https://localhost:{settings.listen.rpartition(':')[2]}{path}"
        headers = {"Flwr-Public-Key": key} if key else {}
        try:
            with opener.open(urllib.request.Request(url, body, headers, method=method), timeout=20) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except urllib.error.URLError as error:
            return 0, str(error.reason)

    try:
        wait("gate", lambda: call("/")[0] == 404, 10)
        yield SimpleNamespace(call=call, folder=folder, homes=homes, watch=watch)
    finally:
        nginx.terminate()
        nginx.wait(10)
        behind.shutdown()
        behind.server_close()
        thread.join(10)


def test_the_gate_forwards_only_the_calls_of_a_supernode(gate):
    for name in SUPERNODE_CALLS:
        assert gate.call(f"/v1/fleet/{name}", b"x") == (200, f"/v1/fleet/{name} 1")
    for path in (
        *("/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/", "/v1/fleet/push-object/x"),
        *("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"),
        *("/health", "/docs", "/openapi.json", "/"),
        *("/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run", "/v1/fleet/push-object%2f..%2f..%2fcontrol"),
        *("//v1/control/start-run", "/V1/control/start-run"),
    ):  # fmt: skip
        assert gate.call(path, b"x")[0] in (400, 404), path
    assert gate.call("/v1/fleet/push-object", method="GET")[0] == 403


def test_without_the_key_of_an_admitted_site_nothing_is_forwarded(gate):
    before = len(Behind.seen)
    other = header(gate.homes["late"])
    for key in ("", "x", other, other.swapcase(), header(gate.homes["clinic"])[:-8]):
        for name in SUPERNODE_CALLS:
            status, text = gate.call(f"/v1/fleet/{name}", b"x" * 1000, key=key)
            assert (status, "not admitted" in text) == (401, True), (name, key)
    assert len(Behind.seen) == before


def test_a_body_is_no_larger_than_the_plans_allow(gate):
    size = reply_size(gate.folder)
    file = 4 * MIB + 4 + 2 * 3 * NAME_BYTES + 8
    assert size.record == RECORD_BYTES + ID_BYTES
    assert size.object == file + RECORD_BYTES
    assert size.total == file + 2 * size.record
    limits = {
        "push-object": size.object,
        "push-messages": size.record,
        **dict.fromkeys(SMALL_CALLS, 16 << 10),
    }
    for name, limit in limits.items():
        assert gate.call(f"/v1/fleet/{name}", b"x" * limit) == (200, f"/v1/fleet/{name} {limit}")
        assert gate.call(f"/v1/fleet/{name}", b"x" * (limit + 1))[0] in (0, 413), name


def test_tensors_are_sent_in_chunks_and_so_are_the_limits(tmp_path):
    (tmp_path / "bundles" / "b").mkdir(parents=True)
    save_file({"a": torch.zeros(3 * MIB)}, tmp_path / "bundles" / "b" / "start.safetensors")
    assert reply_size(tmp_path).object == 5 * MIB + RECORD_BYTES
    assert reply_size(tmp_path).total == 12 * MIB + 3 * NAME_BYTES + 8 + 2 * (RECORD_BYTES + 3 * ID_BYTES)


def packed(*offsets):
    """A file with a tensor at these offsets, and 40 bytes of tensors."""
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}).encode()
    return len(head).to_bytes(8, "little") + head + b"\0" * 40


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff" * 40, b"\x02" + 7 * b"\0" + b"[]", b"\x07" + 7 * b"\0" + b'{"w":1}'),
        *(packed(0, 44), packed(0, 10**30), packed(8, 4), packed(-4, 0), packed(0, 4.0), packed("0", "4")),
        packed(0, 40)[:-1],
    ],
)
def test_a_damaged_file_of_a_bundle_is_named_and_the_other_bundles_count(tmp_path, content, caplog):
    """fedtl server run says so once, and begins all the same."""
    folder = tmp_path / "srv"
    create_server(folder, "localhost", "127.0.0.1:1", 1)
    bad, good = (folder / "bundles" / name / "start.safetensors" for name in ("bad", "good"))
    for path in (bad, good):
        path.parent.mkdir(parents=True)
        path.write_bytes(packed(0, 40))
    before, text = reply_size(folder), gate_text(folder)
    watch = BundleWatch(folder)
    watch()
    bad.write_bytes(content)
    assert (reply_size(folder), write_configuration(folder)) == (before, text)
    watch()
    watch()
    assert [line.split(":")[0] for line in caplog.messages] == ["bundle bad"]
    assert "bad/start.safetensors" in caplog.messages[0]
    good.unlink()
    assert reply_size(folder) == ReplySize()


def test_few_large_bodies_of_a_site_pass_at_once(gate):
    """Six at once: four wait in the server, two are told to come again; small calls pass meanwhile."""
    Behind.go.clear()
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(gate.call, "/v1/fleet/push-object", b"wait" + b"x" * 100_000) for _ in range(6)]
        for _ in range(4):
            assert Behind.waiting.acquire(timeout=10)
        wait("refusals", lambda: sum(call.done() for call in calls) == 2, 10)
        assert gate.call("/v1/fleet/send-node-heartbeat", b"x")[0] == 200
        Behind.go.set()
        assert sorted(call.result()[0] for call in calls) == [200] * 4 + [503] * 2


@contextmanager
def begun(gate, count, size, body=b"", key=""):
    """Connections, on each of which a push-object of ``size`` bytes has begun, with no more than ``body`` of it."""
    port = int(load_server_settings(gate.folder).listen.rpartition(":")[2])
    context = ssl.create_default_context(cafile=str(gate.folder / "tls" / "ca.crt"))
    head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            one = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
            one.sendall(f"{head}Flwr-Public-Key: {key}\r\n\r\n".encode() + body)
            connections.append(one)
        yield connections


@pytest.mark.parametrize(("size", "status"), [(15_000_000, b"413"), (4_000_000, b"401")])
def test_of_large_posts_without_a_key_no_body_is_read(gate, size, status):
    """Each of 24 is answered before a byte of its body was sent, so none is held in memory; also where plans allow such a body."""
    before = len(Behind.seen)
    with begun(gate, 24, size) as connections:
        assert [one.recv(12) for one in connections] == [b"HTTP/1.1 " + status] * 24
    assert len(Behind.seen) == before


def test_a_site_waits_until_it_is_admitted(gate):
    """The gate reads its configuration again, and the site, which may have asked before, goes on."""
    late, slept, noted = gate.homes["late"], [], []
    assert not_admitted(gate.homes["clinic"]) is None
    assert "SHA256:" in not_admitted(late)
    assert abs(ask_gate(late).time - time.time()) < 60

    def sleep(seconds):
        slept.append(seconds)
        rows = {
            name: AdmittedSite(read_public_key(home.path / "node.key.pub"), 7)
            for name, home in gate.homes.items()
        }
        write_admitted(gate.folder, {**rows, "bad": AdmittedSite("nonsense", 8)})
        gate.watch()
        wait("reload", lambda: gate.call("/v1/fleet/get-run", b"x", key=header(late))[0] == 200, 10)

    wait_until_admitted(late, noted.append, sleep)
    assert len(slept) == len(noted) == 1
    assert gate.watch.loaded == gate_text(gate.folder)


@pytest.mark.slow
def test_of_more_calls_than_a_site_needs_the_rest_waits(gate):
    """200 a second, and 500 more at once: 700 calls of one site take at least a second, and another site waits for none of them."""
    late = gate.homes["late"]
    rows = {
        name: AdmittedSite(read_public_key(home.path / "node.key.pub"), 7)
        for name, home in gate.homes.items()
    }
    write_admitted(gate.folder, rows)
    gate.watch()
    wait("reload", lambda: gate.call("/v1/fleet/get-run", b"x", key=header(late))[0] == 200, 10)
    refused = "GET /v1/fleet/get-run HTTP/1.1\r\nHost: localhost\r\nFlwr-Public-Key: {}\r\n\r\n"  # counted, then 403
    with begun(gate, 1, 1, b"x", header(gate.homes["clinic"])) as (one,):
        started, said = time.monotonic(), b""
        for _ in range(7):
            one.sendall(refused.format(header(gate.homes["clinic"])).encode() * 100)
        other = time.monotonic()
        assert gate.call("/v1/fleet/get-run", b"x", key=header(late))[0] == 200
        other = time.monotonic() - other
        while said.count(b"HTTP/1.1 ") < 701:
            said += one.recv(1 << 16)
        took = time.monotonic() - started
    assert took > 0.95
    assert other < took / 2


def test_a_site_waits_until_the_gate_answers(tmp_path):
    home = Home.create(tmp_path / "alone", "alone", f"localhost:{free_port()}")
    create_server(tmp_path / "srv", "localhost", "127.0.0.1:1", 1)
    shutil.copy(tmp_path / "srv" / "tls" / "ca.crt", home.path)
    with pytest.raises(ConfigError, match="cannot connect to"):
        ask_gate(home)
    slept, noted = [], []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:  # an error that only Flower reports
            (home.path / "ca.crt").unlink()

    wait_until_admitted(home, noted.append, sleep)
    assert len(slept) == 2
    assert [text.endswith("; waiting") for text in noted] == [True]


@pytest.mark.slow
def test_slow_bodies_are_cut_off_and_hold_up_nobody_else(gate):
    """With a timeout of 2 s instead of 15: four begin a body and send no more of it. A fifth is told to come again."""
    path, pid = gate.folder / "gate" / "nginx.conf", int((gate.folder / "gate" / "nginx.pid").read_text())
    text = path.read_text()
    assert text.count("client_body_timeout 15s;") == 1
    key, before = header(gate.homes["clinic"]), len(Behind.seen)
    try:
        path.write_text(text.replace("client_body_timeout 15s;", "client_body_timeout 2s;"))
        os.kill(pid, signal.SIGHUP)
        time.sleep(0.5)  # until new connections get the new settings
        with begun(gate, 4, 100_000, b"x" * 1000, key) as slow:
            assert gate.call("/v1/fleet/push-object", b"x")[0] == 503
            assert gate.call("/v1/fleet/send-node-heartbeat", b"x")[0] == 200
            said = [one.recv(1000) for one in slow]
        assert all(reply == b"" or b" 408 " in reply for reply in said)
        assert gate.call("/v1/fleet/push-object", b"x")[0] == 200
        assert Behind.seen[before:].count("/v1/fleet/push-object") == 1  # no slow one was forwarded
    finally:
        path.write_text(text)
        os.kill(pid, signal.SIGHUP)


def admit(folder, *homes):
    """As the process that runs the SuperLink writes it, in another container or in this one."""
    keys = {home.settings.name: read_public_key(home.path / "node.key.pub") for home in homes}
    write_admitted(folder, {name: AdmittedSite(key, 7) for name, key in keys.items()})


def test_only_the_nginx_that_this_process_started_is_told_to_read_its_configuration(tmp_path):
    """The number in nginx.pid may be that of any process: of one in another container, or of one that ended."""
    folder, home = tmp_path / "srv", Home.create(tmp_path / "late", "late", "localhost:1")
    create_server(folder, "localhost", "127.0.0.1:1", 1)
    nginx, stranger = (subprocess.Popen(["sleep", "100"]) for _ in range(2))
    elsewhere, here = (GateWatch(folder, write_configuration(folder), pid) for pid in (None, nginx.pid))
    try:
        (folder / "gate" / "nginx.pid").write_text(f"{stranger.pid}\n")
        admit(folder, home)
        elsewhere()
        assert "late" in (folder / "gate" / "nginx.conf").read_text()
        here()
        assert "late" not in here.loaded
        assert (nginx.poll(), stranger.poll()) == (None, None)
        (folder / "gate" / "nginx.pid").write_text(f"{nginx.pid}\n")  # as nginx does once it is ready
        here()
        assert nginx.wait(10) == -signal.SIGHUP
        assert stranger.poll() is None
        assert here.loaded == elsewhere.loaded == gate_text(folder)
    finally:
        for process in (nginx, stranger):
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("parts", "loaded"),
    [("link exec gate", 8), ("gate", 8), ("link exec", None), ("link", ...), ("exec", ...)],
)
def test_one_process_writes_the_configuration_of_the_gate(tmp_path, monkeypatch, parts, loaded):
    """``loaded``: the nginx that is told to read it; None: its owner tells it; ...: the process of the gate writes it, and not this one."""
    folder, parts = tmp_path / "srv", parts.split()
    create_server(folder, "localhost", "127.0.0.1:1", 1)
    (folder / "gate" / "nginx.conf").unlink()
    (folder / "gate" / "nginx.pid").write_text("8")  # of one that was killed
    watches = []

    def supervise(commands, environments, ready, watch):
        assert (folder / "gate" / "nginx.pid").exists() == ("gate" not in parts)
        ready({part: number for number, part in enumerate(parts, 9 - len(parts))})
        watches.extend(watch.watches)
        return "", 0, ""

    monkeypatch.setattr(server, "server_commands", lambda folder, parts: {})
    monkeypatch.setattr(server, "resume_studies", lambda folder: None)
    monkeypatch.setattr(server, "supervise", supervise)
    assert server.run_server(folder, parts) == 0
    assert (folder / "gate" / "nginx.conf").exists() == (loaded is not ...)
    assert [type(one) for one in watches].count(BundleWatch) == ("link" in parts)
    assert [one.nginx for one in watches if isinstance(one, GateWatch)] == [loaded] * (loaded is not ...)


@pytest.mark.process
@pytest.mark.slow
def test_a_gate_alone_notices_new_sites_and_larger_bundles(tmp_path):
    """As where link, exec and gate have containers of their own: what they share is the folder."""
    if NGINX is None:
        pytest.skip("no nginx: apt-get install nginx-light")
    its = Federation(tmp_path)
    late = its.add("late", admit=False)
    target = SimpleNamespace(folder=its.server)

    def status(size):
        body = b"x" * size
        with begun(target, 1, size, body, header(late)) as (one,):
            return int(one.recv(12)[-3:])

    process = its.run("server", "--part", "gate")
    try:
        wait("gate", lambda: (its.server / "gate" / "nginx.pid").exists(), 60, [process])
        wait("refusal", lambda: not_admitted(late), 20, [process])
        admit(its.server, late)
        wait("new site", lambda: not not_admitted(late), 20, [process])
        assert status(1000) == 502  # no SuperLink runs
        large = RECORD_BYTES + 1000
        assert status(large) == 413
        (its.server / "bundles" / "b").mkdir(parents=True)
        save_file({"a": torch.zeros(1000)}, its.server / "bundles" / "b" / "start.safetensors")
        wait("larger bundle", lambda: status(large) == 502, 20, [process])
    finally:
        process.terminate()
        process.wait(30)
