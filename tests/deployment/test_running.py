"""What the commands of both sides say about the machine: a second process, the end of a part, the disk, certificates, clocks."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest
from typer.testing import CliRunner

from fedtl.cli.main import app
from fedtl.deployment import certificates
from fedtl.deployment.certificates import create_authority, read_certificates, validity
from fedtl.deployment.coordinator import server
from fedtl.deployment.coordinator.server import create_server, run_server, stop_server
from fedtl.deployment.flower_commands import flower_environment
from fedtl.deployment.running import ended_line, free_space, only_one
from fedtl.deployment.site import answer_round, gate, run
from fedtl.deployment.site.egress_lines import Disconnected
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.run import run_site
from fedtl.errors import ConfigError, Denied
from tests.real_processes import Federation, free_port

FULL = SimpleNamespace(free=100 << 20)


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "here", "localhost:1")


def test_a_second_process_on_one_folder_is_refused_with_the_first_ones_id(home, tmp_path, monkeypatch):
    """Whatever else is taken, such as the port of the first one's figures."""
    monkeypatch.setattr(run, "supervise", lambda *_, **__: ("", 0, ""))
    monkeypatch.setattr(server, "supervise", lambda *_, **__: ("", 0, ""))
    create_server(tmp_path / "srv", "localhost", "127.0.0.1:1", 1)
    for folder, part, start in (
        (home.path, "exec", lambda port=None: run_site(home, ["node", "exec"], port)),
        (tmp_path / "srv", "link", lambda port=None: run_server(tmp_path / "srv", ["link"], port)),
    ):
        with only_one(folder, ["node", part], "x"), socket.create_server(("127.0.0.1", 0)) as taken:
            with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
                start(taken.getsockname()[1])
            with only_one(folder, ["gate"], "another part"):
                pass
        assert start() == 0  # the lock is free again


HOLDS = """\
import fcntl, os, signal, sys, time
path, number, on_stop = sys.argv[1:]
handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
fcntl.flock(handle, fcntl.LOCK_EX)
os.pwrite(handle, (number or str(os.getpid())).encode(), 0)
signal.signal(signal.SIGTERM, getattr(signal, on_stop))
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def holding(tmp_path):
    """Start a process that holds the lock of part link, of which it says that process ``number`` does."""
    started = []

    def start(number="", on_stop="SIG_DFL"):
        words = [sys.executable, "-S", "-c", HOLDS, str(tmp_path / ".link.pid"), number, on_stop]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_stop_ends_the_process_that_runs_and_no_other(tmp_path, holding, monkeypatch):
    with pytest.raises(ConfigError, match="no server runs"):
        stop_server(tmp_path)
    process = holding()
    stop_server(tmp_path)
    assert process.wait(10) == -signal.SIGTERM
    with pytest.raises(
        ConfigError, match="no server runs"
    ):  # the number is still in the file, and may be another's
        stop_server(tmp_path)
    stranger, elsewhere = subprocess.Popen(["sleep", "100"]), None
    try:
        elsewhere = holding(
            str(stranger.pid)
        )  # as a container writes it, whose processes have numbers of their own
        with pytest.raises(ConfigError, match="container"):
            stop_server(tmp_path)
        assert (stranger.poll(), elsewhere.poll()) == (None, None)
    finally:
        stranger.kill()
        stranger.wait()
    elsewhere.kill()
    elsewhere.wait()
    holding(on_stop="SIG_IGN")
    monkeypatch.setattr(server, "STOP_SECONDS", 0.3)
    with pytest.raises(ConfigError, match="still running"):
        stop_server(tmp_path)


def test_the_end_of_a_part_is_one_line_with_the_reason(home, tmp_path, monkeypatch, caplog):
    home.record.append(Disconnected(reason="CERTIFICATE_VERIFY_FAILED"))
    for *ended, text in (
        ("node", 1, "Traceback", "ended with exit code 1: CERTIFICATE_VERIFY_FAILED"),
        (
            "node",
            0,
            "INFO: Finished",
            f"ended with exit code 0: {run.NO_ERROR}; see: fedtl silo check {home.path}",
        ),
        ("node", 0, "KeyError: 1", 'ended with exit code 0: its last line was "KeyError: 1"'),
        ("exec", -9, "", "was killed by SIGKILL"),
        ("exec", 2, "error: no port", 'ended with exit code 2: its last line was "error: no port"'),
    ):
        for module in (run, server):
            monkeypatch.setattr(module, "supervise", lambda *_, ended=ended, **__: tuple(ended))
        assert run_site(home, ["node", "exec"]) == (abs(ended[1]) or 1)
        assert caplog.messages[-1].startswith(f"part {ended[0]} {text};")
    create_server(tmp_path / "srv", "localhost", "127.0.0.1:1", 1)
    assert run_server(tmp_path / "srv", ["exec"]) == 2
    assert caplog.messages[-1].startswith(f"part exec {text};")
    assert ended_line("x", -99).startswith("part x was killed by signal 99")


def test_a_full_disk_is_seen_before_a_round(home, monkeypatch):
    answer_round._check_disk(home)
    assert "make room" not in free_space(home.path) or shutil.disk_usage(home.path).free < 1 << 30
    monkeypatch.setattr(shutil, "disk_usage", lambda path: FULL)
    with pytest.raises(Denied, match="make room"):
        answer_round._check_disk(home)
    assert free_space(home.path).startswith("0.1 GiB free, less than 1 GiB")


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (31.2, "c is valid for 31 days"),
        (29.2, "c is valid for 29 days; renew it"),
        (-3.0, "c expired 3 days ago; renew it"),
    ],
)
def test_a_certificate_that_ends_within_thirty_days_says_what_to_do(days, text):
    assert validity("c", days, "renew it") == text


def test_clocks_and_certificates_are_noted_before_the_site_connects(home, tmp_path, monkeypatch):
    assert gate.warnings_before_connecting(home) == []  # ca.crt is missing, which Flower reports
    create_server(tmp_path / "srv", "localhost", "127.0.0.1:1", 1)
    shutil.copy(tmp_path / "srv" / "tls" / "ca.crt", home.path)
    monkeypatch.setattr(gate, "ask_gate", lambda home: gate.GateReply(404, "", gate.time.time() + 90))
    monkeypatch.setattr(gate, "days_left", lambda path: 12.0)
    assert [text.split("; ")[0].split(" by ")[-1] for text in gate.warnings_before_connecting(home)] == [
        "ca.crt is valid for 12 days",
        "-90 s",
    ]


@pytest.mark.parametrize(("days", "what"), [(1, "not yet valid"), (-4000, "has expired")])
def test_a_certificate_that_is_not_valid_today_is_blamed_on_the_clock(home, days, what, monkeypatch):
    """As where the site's clock is slow, or fast by years."""
    made = datetime.now(UTC) + timedelta(days=days)
    monkeypatch.setattr(certificates, "datetime", SimpleNamespace(now=lambda zone: made))
    create_server(home.path / "srv", "localhost", "127.0.0.1:1", 1)
    shutil.copy(home.path / "srv" / "tls" / "ca.crt", home.path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*(home.path / "srv" / "tls" / f"server.{kind}" for kind in ("pem", "key")))

    def refuse():
        connection, _ = listening.accept()
        with connection, pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=refuse)
        thread.start()
        Federation.change(home.path / "silo.toml", server=f"localhost:{listening.getsockname()[1]}")
        said = gate.warnings_before_connecting(Home.open(home.path))
        thread.join(10)
    assert [part in said[-1] for part in (what, "this machine's clock", "NTP")] == [True] * 3


def test_the_gate_is_asked_through_the_proxy_that_flower_uses(home, monkeypatch):
    """Both take that of the environment, and ask it for this machine's own addresses never."""
    asked = []

    def proxy():
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(1000).split(b" HTTP")[0].decode())
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        for name in ("https_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread = threading.Thread(target=proxy)
        thread.start()
        create_authority(home.path, "fl.example.org")
        Federation.change(home.path / "silo.toml", server="fl.example.org:8443")
        with pytest.raises(gate.GateUnreachable, match="the proxy"):
            gate.ask_gate(Home.open(home.path))
        monkeypatch.setenv("NO_PROXY", flower_environment(home.path)["NO_PROXY"])
        with httpx.Client() as client, pytest.raises(httpx.ProxyError):  # as Flower makes its client
            client.post("https://fl.example.org:8443/")
        thread.join(10)
        assert asked == ["CONNECT fl.example.org:8443"] * 2
        monkeypatch.delenv("NO_PROXY")
    Federation.change(home.path / "silo.toml", server=f"localhost:{free_port()}")
    with pytest.raises(gate.GateUnreachable, match="refused"):
        gate.ask_gate(Home.open(home.path))


def test_a_certificate_that_is_not_there_is_called_so(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_certificates(tmp_path / "ca.crt")
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(ConfigError, match="PEM"):
        read_certificates(tmp_path / "ca.crt")


def test_the_record_of_a_new_site_is_said_to_be_empty(home):
    said = CliRunner().invoke(app, ["silo", "ledger", str(home.path)])
    assert said.exit_code == 0
    assert "nothing was charged" in said.stderr
