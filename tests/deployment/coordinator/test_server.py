"""The coordinator's folder: certificates, keys, bundles, and the gate with the real nginx before a stand-in server."""

import http.server
import json
import shutil
import ssl
import stat
import subprocess
import threading
import urllib.error
import urllib.request
import zipfile

import pytest

from fedtl.cli.main import main
from fedtl.deployment import certificates
from fedtl.deployment import plan as agreement
from fedtl.deployment.coordinator import admitted, server, sites, studies
from fedtl.deployment.coordinator.bundle import FILES, Bundle, agreement_in, bundle
from fedtl.deployment.coordinator.nginx import CALLS
from fedtl.deployment.coordinator.server import _nginx
from fedtl.deployment.site import keys
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load
from tests.real_processes import free_port, wait

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@pytest.fixture
def folder(tmp_path):
    server.init(tmp_path / "server", "localhost", f"127.0.0.1:{free_port()}", free_port())
    return tmp_path / "server"


def test_what_is_secret_is_its_owners_alone(folder):
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        public = path.name in ("ca.crt", "server.pem", "nginx.conf")
        assert public or mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_the_certificate_is_for_the_host_and_signed_by_the_authority(folder):
    tls = folder / "tls"
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", tls / "ca.crt", "-verify_hostname", "localhost", tls / "server.pem"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    before = (tls / "server.pem").read_bytes()
    certificates.make_server(tls, "localhost")
    assert (tls / "server.pem").read_bytes() != before
    assert 364 < certificates.days_left(tls / "server.pem") < 366
    (tls / "ca.key").unlink()
    with pytest.raises(ConfigError, match="the authority's key is needed"):
        certificates.make_server(tls, "localhost")


def test_a_name_and_a_key_are_admitted_once(folder, tmp_path):
    keys.make_node_key(tmp_path / "a", "site-a")
    keys.make_node_key(tmp_path / "b", "site-b")
    sites.admit(folder, tmp_path / "a.pub", "")
    with pytest.raises(ConfigError, match="'site-a' is admitted already"):
        sites.admit(folder, tmp_path / "b.pub", "site-a")
    with pytest.raises(ConfigError, match="this key is 'site-a'"):
        sites.admit(folder, tmp_path / "a.pub", "other")
    with pytest.raises(ConfigError, match="is no public key"):
        sites.admit(folder, tmp_path / "a", "private")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "ed"], check=True)
    with pytest.raises(ConfigError, match="another kind"):
        sites.admit(folder, tmp_path / "ed.pub", "ed")
    assert list(admitted.admitted(folder)) == ["site-a"]
    assert admitted.nodes(folder) == {}  # until Flower knows it


def test_ssh_reads_the_keys_that_are_made(tmp_path):
    keys.make_node_key(tmp_path / "k", "me")
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", tmp_path / "k"], capture_output=True, text=True, check=True
    )
    assert public.stdout.split()[:2] == (tmp_path / "k.pub").read_text().split()[:2]
    assert keys.fits(tmp_path / "k", tmp_path / "k.pub")


def test_a_bundle_holds_two_apps_and_one_agreement_and_is_the_same_when_built_again(folder):
    made = bundle(folder / "bundles", "digits", load("digits"))
    names = zipfile.ZipFile(made.file).namelist()
    assert set(names) == {*FILES, "experiments/digits.toml", "pyproject.toml", ".info/CONTENT"}
    first = made.hash
    assert bundle(folder / "bundles", "digits", load("digits")).hash == first
    assert bundle(folder / "bundles", "digits", load("digits", ["rounds=3"])).hash != first


def test_what_lies_beside_the_apps_does_not_travel(folder):
    """Flower packs any .json, .yaml and .md that it is not told to leave."""
    from fedtl.deployment.coordinator.bundle import _built

    made = bundle(folder / "bundles", "digits", load("digits"))
    app = made.folder / "app"
    for name in ("data/patients.json", "secrets.yaml", "notes.md", ".hidden.json", "fedtl/__init__.py"):
        (app / name).parent.mkdir(exist_ok=True)
        (app / name).write_text("{}")
    before = made.hash
    made.file.write_bytes(_built(app, folder))
    assert made.hash == before


def test_an_agreement_says_nothing_about_anybodys_files(folder, tmp_path):
    settings = load("digits", ["privacy.epsilon=3", "data.limit=50"])
    made = bundle(folder / "bundles", "digits", settings)
    name, its = agreement_in(made.file.read_bytes(), "digits.fab")
    assert name == "digits"
    assert its.dp_ready
    assert its.shape == [1, 8, 8]
    text = its.dump()
    assert str(tmp_path) not in text
    assert "limit = 50" not in text
    assert agreement.parse(json.loads(its.model_dump_json()), "x") == its


def test_the_schema_is_declared_where_the_coordinator_has_no_rows(folder):
    settings = load("digits", ["method.name=fedavg"])
    with pytest.raises(ConfigError, match="say --classes"):
        bundle(folder / "bundles", "x", settings, (1, 28, 28))
    made = bundle(folder / "bundles", "x", settings, (1, 28, 28), ("no", "yes"))
    _, its = agreement_in(made.file.read_bytes(), "x")
    assert (its.shape, its.classes) == ([1, 28, 28], ["no", "yes"])


def test_a_run_that_died_is_ended_before_its_study_goes_on(folder, monkeypatch):
    """A site may still wait for the rest of one of its messages. That it has ended by itself is no failure."""
    path, done = folder / "studies" / "first", []
    path.mkdir(parents=True)
    (path / "plan.json").write_text('{"bundle_name": "digits"}')
    (path / "runs.jsonl").write_text('{"run": 6, "at": 0}\n{"run": 7, "at": 0}\n')

    def flwr(folder, *words):
        done.append(words[:2])
        raise ConfigError("flwr stop: the run is already finished")

    monkeypatch.setattr(studies, "flwr", flwr)
    monkeypatch.setattr(studies, "wait_healthy", lambda _: None)
    monkeypatch.setattr(studies, "_submit", lambda *_: done.append("submitted"))
    studies.resume(folder)
    assert done == [("stop", "7"), "submitted"]


@pytest.mark.parametrize(
    ("text", "ended"), [("", []), ('{"run": 6, "at": 0}\n{"run": 7, "a', [("stop", "6")])]
)
def test_a_list_of_runs_that_a_crash_tore_keeps_no_server_down(text, ended, folder, monkeypatch):
    path, done = folder / "studies" / "first", []
    path.mkdir(parents=True)
    (path / "plan.json").write_text('{"bundle_name": "digits"}')
    (path / "runs.jsonl").write_text(text)
    monkeypatch.setattr(studies, "flwr", lambda folder, *words: done.append(words[:2]))
    monkeypatch.setattr(studies, "wait_healthy", lambda _: None)
    monkeypatch.setattr(studies, "_submit", lambda *_: done.append("submitted"))
    studies.resume(folder)
    assert done == [*ended, "submitted"]


class Behind(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.path} {len(body)}".encode())

    do_GET = do_PUT = do_POST

    def log_message(self, *args):
        pass


@pytest.fixture
def gate(folder):
    """nginx as ``fedtl server init`` configures it, before something that answers every call."""
    if NGINX is None:
        pytest.skip("no nginx: apt-get install nginx-light")
    settings = server.load(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls" / "server.pem", folder / "tls" / "server.key")
    behind = http.server.ThreadingHTTPServer(("127.0.0.1", settings.port), Behind)
    behind.socket = context.wrap_socket(behind.socket, server_side=True)
    thread = threading.Thread(target=behind.serve_forever)
    thread.start()
    command = server.commands(folder, ["gate"])["gate"]
    assert command[0] == _nginx()
    nginx = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    client = ssl.create_default_context(cafile=str(folder / "tls" / "ca.crt"))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=client)
    )

    def call(path, body=b"", method="POST"):
        url = f"https://localhost:{settings.listen.rpartition(':')[2]}{path}"
        try:
            with opener.open(urllib.request.Request(url, body, method=method), timeout=20) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""
        except urllib.error.URLError as error:
            return 0, str(error.reason)

    try:
        wait("gate", lambda: call("/")[0] == 404, 10)
        yield call
    finally:
        nginx.terminate()
        nginx.wait(10)
        behind.shutdown()
        behind.server_close()
        thread.join(10)


def test_the_gate_lets_a_supernode_through_and_nothing_else(gate):
    for name in CALLS:
        assert gate(f"/v1/fleet/{name}", b"x") == (200, f"/v1/fleet/{name} 1")
    for path in (
        *("/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/", "/v1/fleet/push-object/x"),
        *("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"),
        *("/health", "/docs", "/openapi.json", "/"),
        *("/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run", "/v1/fleet/push-object%2f..%2f..%2fcontrol"),
        *("//v1/control/start-run", "/V1/control/start-run"),
    ):  # fmt: skip
        assert gate(path, b"x")[0] in (400, 404), path
    assert gate("/v1/fleet/push-object", method="GET")[0] == 403


def test_the_gate_caps_a_body(gate):
    assert gate("/v1/fleet/push-object", b"x" * (6 << 20)) == (200, f"/v1/fleet/push-object {6 << 20}")
    assert gate("/v1/fleet/push-object", b"x" * (17 << 20))[0] in (0, 413)


def test_the_commands_of_a_coordinator(tmp_path, monkeypatch, capsys):
    """What can be said and done without a server that runs; mistakes are one line and exit code 2."""

    def said(*words, code=0):
        monkeypatch.setattr("sys.argv", ["fedtl", "server", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        return capsys.readouterr()

    folder, key = tmp_path / "srv", tmp_path / "clinic"
    said("init", folder, "--host", "fl.example.org", "--port", free_port())
    assert "is not empty" in said("init", folder, "--host", "x", code=2).err
    keys.make_node_key(key, "clinic")
    assert "when the server starts" in said("admit", folder, f"{key}.pub").err
    assert "'clinic' is admitted already" in said("admit", folder, f"{key}.pub", code=2).err
    words = ("digits", "--set", "rounds=2", "--dp-ready")
    printed = said("bundle", folder, *words).out
    assert printed.strip() == Bundle(folder / "bundles" / "digits").hash
    status = json.loads(said("status", folder, "--json").out)
    assert (status["running"], status["listen"], status["studies"]) == (False, "127.0.0.1:8443", {})
    assert status["admitted"] == {"clinic": "waits for the server to run"}
    assert "no SuperLink runs" in said("start", folder, "digits", code=2).err
    assert "there is no bundle 'other'" in said("start", folder, "other", code=2).err
    assert "no server runs" in said("stop", folder, code=2).err
    assert "method 'local'" in said("bundle", folder, "digits", "--set", "method.name=local", code=2).err
