"""The coordinator's folder: certificates, keys, bundles, and the gate: nginx in front of a test server."""

import io
import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedtl.cli.main import main
from fedtl.deployment.certificates import certificate_fingerprint, create_server_certificate, days_left
from fedtl.deployment.coordinator import sites, studies
from fedtl.deployment.coordinator.admitted import node_ids, read_admitted, write_admitted
from fedtl.deployment.coordinator.bundle import (
    APP_FILES,
    Bundle,
    _limited,
    build_bundle,
    read_agreement,
)
from fedtl.deployment.coordinator.database import check_database
from fedtl.deployment.coordinator.declared_schema import load_without_rows
from fedtl.deployment.coordinator.pack import pack_app
from fedtl.deployment.coordinator.server import create_server, run_server
from fedtl.deployment.coordinator.sites import admit_site, expel_site, register_sites, suspend_site
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.coordinator.superlink import FlowerNode, NoAnswer
from fedtl.deployment.flower_commands import flower_environment
from fedtl.deployment.plan import Agreement, make_agreement
from fedtl.deployment.site.keys import (
    create_node_key,
    fingerprint,
    keys_match,
    public_key_pem,
    read_public_key,
)
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import limits_of
from fedtl.experiment.config.settings_file import validate
from fedtl.federation.limits import UpdateLimits
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.server import ServerStep
from tests.real_processes import free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@pytest.fixture
def folder(tmp_path):
    create_server(tmp_path / "server", "localhost", f"127.0.0.1:{free_port()}", free_port())
    return tmp_path / "server"


def test_only_the_owner_can_read_secret_files(folder):
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        public = path.name in ("ca.crt", "server.pem", "nginx.conf")
        assert public or mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_start_waits_as_long_as_it_is_told_for_a_server_that_does_not_come(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fedtl", "server", "start", str(folder), "study", "--wait", "0.4"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "did not start within 0.4 s" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"garbage" * 1000])
def test_a_damaged_database_is_named_before_the_superlink_starts(folder, content):
    check_database(folder)
    (folder / "state.db").write_bytes(content)
    with pytest.raises(ConfigError, match=r"state\.db cannot be read"):
        run_server(folder, ["link", "exec"])
    (folder / "state.db").unlink()
    with closing(sqlite3.connect(folder / "state.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE runs (id)")
        other.execute("BEGIN EXCLUSIVE")
        check_database(folder)


def test_the_certificate_is_for_the_host_and_signed_by_the_authority(folder):
    tls = folder / "tls"
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", tls / "ca.crt", "-verify_hostname", "localhost", tls / "server.pem"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    before = (tls / "server.pem").read_bytes()
    create_server_certificate(tls, "localhost")
    assert (tls / "server.pem").read_bytes() != before
    assert 364 < days_left(tls / "server.pem") < 366
    (tls / "ca.key").unlink()
    with pytest.raises(ConfigError, match="ca.key"):
        create_server_certificate(tls, "localhost")


def test_a_name_and_a_key_are_admitted_once(folder, tmp_path):
    create_node_key(tmp_path / "a", "site-a")
    create_node_key(tmp_path / "b", "site-b")
    admit_site(folder, tmp_path / "a.pub", "")
    with pytest.raises(ConfigError, match="server rotate"):
        admit_site(folder, tmp_path / "b.pub", "site-a")
    with pytest.raises(ConfigError, match="as 'site-a'"):
        admit_site(folder, tmp_path / "a.pub", "other")
    with pytest.raises(ConfigError, match="not a public key"):
        admit_site(folder, tmp_path / "a", "private")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "ed"], check=True)
    with pytest.raises(ConfigError, match="P-384"):
        admit_site(folder, tmp_path / "ed.pub", "ed")
    assert list(read_admitted(folder)) == ["site-a"]
    assert node_ids(folder) == {}  # until Flower knows it


def test_openssh_reads_the_node_key(tmp_path):
    create_node_key(tmp_path / "k", "me")
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", tmp_path / "k"], capture_output=True, text=True, check=True
    )
    assert public.stdout.split()[:2] == (tmp_path / "k.pub").read_text().split()[:2]
    assert keys_match(tmp_path / "k", tmp_path / "k.pub")


def test_a_bundle_holds_two_apps_and_one_agreement_and_is_the_same_when_built_again(folder):
    made = build_bundle(folder / "bundles", "digits", load_experiment("digits"))
    names = zipfile.ZipFile(made.file).namelist()
    assert set(names) == {*APP_FILES, "experiments/digits.toml", "pyproject.toml", ".info/CONTENT"}
    first = made.hash
    assert build_bundle(folder / "bundles", "digits", load_experiment("digits")).hash == first
    assert build_bundle(folder / "bundles", "digits", load_experiment("digits", ["rounds=3"])).hash != first


def test_a_bundle_holds_no_other_file_of_its_folder(folder):
    """Flower packs every .json, .yaml and .md file of an app folder unless it is told not to."""
    made = build_bundle(folder / "bundles", "digits", load_experiment("digits"))
    app = made.folder / "app"
    for name in ("data/patients.json", "secrets.yaml", "notes.md", ".hidden.json", "fedtl/__init__.py"):
        (app / name).parent.mkdir(exist_ok=True)
        (app / name).write_text("{}")
    before = made.hash
    made.file.write_bytes(pack_app(app))
    assert made.hash == before
    subprocess.run(
        [Path(sys.executable).with_name("flwr"), "build", "--app", app],
        cwd=made.folder, env=flower_environment(folder), capture_output=True, check=True,
    )  # fmt: skip
    (built,) = made.folder.glob("fedtl.*.fab")
    assert built.read_bytes() == made.file.read_bytes()


def test_a_folder_that_flower_does_not_pack_is_one_line(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]")
    with pytest.raises(ConfigError, match="cannot build a bundle") as caught:
        pack_app(tmp_path)
    assert "\n" not in str(caught.value)


def test_packing_imports_nothing_of_the_app(tmp_path):
    """Two apps have packages of the same names, and the folder of the first may be gone."""
    text = (
        '[project]\nname = "other"\nversion = "1.0.0"\ndescription = "d"\nlicense = "Apache-2.0"\n[tool.flwr.app]\npublisher = "p"\n'
        '[tool.flwr.app.components]\nserverapp = "server.main:app"\nclientapp = "clients.main:app"\n'
    )
    before = {name: sys.modules.get(name) for name in ("server", "clients")}
    for package in ("server", "clients"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "main.py").write_text("raise RuntimeError\n")
    (tmp_path / "pyproject.toml").write_text(text)
    packed = zipfile.ZipFile(io.BytesIO(pack_app(tmp_path)))
    assert {"server/main.py", "clients/main.py"} <= set(packed.namelist())
    assert {name: sys.modules.get(name) for name in before} == before


def test_an_agreement_does_not_hold_paths_or_limits_of_the_coordinator(folder, tmp_path):
    settings = load_experiment("digits", ["privacy.epsilon=3", "data.limit=50"])
    made = build_bundle(folder / "bundles", "digits", settings)
    name, its = read_agreement(made.file.read_bytes(), "digits.fab")
    assert name == "digits"
    assert its.dp_ready
    assert its.shape == [1, 8, 8]
    text = its.dump()
    assert str(tmp_path) not in text
    assert "limit = 50" not in text
    assert validate(Agreement, json.loads(its.model_dump_json()), "x") == its


def test_a_coordinator_without_rows_declares_the_schema(folder):
    settings = load_experiment("digits", ["method.name=fedavg"])
    with pytest.raises(ConfigError, match="--classes"):
        build_bundle(folder / "bundles", "x", settings, (1, 28, 28))
    made = build_bundle(folder / "bundles", "x", settings, (1, 28, 28), ("no", "yes"))
    _, its = read_agreement(made.file.read_bytes(), "x")
    assert (its.shape, its.classes) == ([1, 28, 28], ["no", "yes"])


def test_an_experiment_with_a_declared_schema_needs_no_rows_here(tmp_path):
    (tmp_path / "e.toml").write_text('[data]\nsource = "table"\npath = "nowhere"\nlabel = "y"')
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        load_experiment(str(tmp_path / "e.toml"))
    for path in ("nowhere", ""):
        settings = load_without_rows(str(tmp_path / "e.toml"), [f'data.path="{path}"'], tmp_path)
        assert settings.data.path == str(tmp_path)
    assert load_without_rows("digits", ["rounds=3"], tmp_path).rounds == 3
    with pytest.raises(ConfigError, match="data.source"):
        load_without_rows(str(tmp_path / "e.toml"), ["data.source='tabel'"], tmp_path)


@pytest.mark.parametrize(
    ("setting", "dp_ready"), [("data.unlabelled=['faint']", True), ("data.label_fraction=0.5", False)]
)
def test_a_bundle_hides_no_labels(folder, setting, dp_ready):
    settings = load_experiment("digits", ["method.name=silobn", setting])
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        build_bundle(folder / "bundles", "x", settings, dp_ready=dp_ready)


def test_a_bundle_says_which_sites_it_takes_to_have_no_labels(folder):
    settings = load_experiment("digits", ["method.name=silo_mmd", "data.unlabelled=['faint']"])
    made = build_bundle(folder / "bundles", "x", settings)
    assert read_agreement(made.file.read_bytes(), "x")[1].experiment.data.unlabelled == ["faint"]


def begun(folder):
    """The folder of a study that was started and is not done."""
    config = FederationConfig("first", 0, 2, ServerStep())
    plan = StudyPlan(config, {}, "digits", deadline=5.0, tries=1, bundle="b", plan="p")
    return HostedStudy.create(folder / "studies" / "first", plan, {"w": torch.zeros(1)}).path


class Link:
    """A SuperLink that notes each call. Its nodes by PEM key; it refuses to register or stop what is in ``refuses``."""

    healthy = True

    def __init__(self, refuses=()):
        self.calls, self.known, self.refuses = [], {}, refuses

    def __call__(self, folder):
        return self

    def wait_until_healthy(self):
        pass

    def nodes(self):
        return dict(self.known)

    def _note(self, what, of):
        self.calls.append((what, of))
        if of in self.refuses:
            raise ConfigError(f"{what} {of}: refused")

    def register(self, key, name):
        self._note("register", name)
        self.known[public_key_pem(key)] = FlowerNode(len(self.known) + 7, False)
        return len(self.known) + 6

    def unregister(self, node):
        self._note("unregister", node)
        self.known = {key: replace(row, expelled=row.node == node) for key, row in self.known.items()}

    def stop_run(self, run):
        self._note("stop", run)

    def unfinished_runs(self, study):
        return []

    def start_run(self, bundle, config):
        self._note("start", config["study"])
        return 9


@pytest.fixture
def link(monkeypatch):
    its = Link()
    monkeypatch.setattr(studies, "SuperLink", its)
    monkeypatch.setattr(sites, "SuperLink", its)
    return its


def test_an_expelled_key_is_refused_before_anything_is_written(folder, tmp_path, link):
    create_node_key(tmp_path / "a", "site-a")
    assert admit_site(folder, tmp_path / "a.pub", "").node == 7
    expel_site(folder, "site-a")
    for name in ("site-a", "other"):
        with pytest.raises(ConfigError, match="never accepts"):
            admit_site(folder, tmp_path / "a.pub", name)
    (folder / "expelled.json").unlink()  # Flower knows it all the same
    with pytest.raises(ConfigError, match="never accepts"):
        admit_site(folder, tmp_path / "a.pub", "")
    assert read_admitted(folder) == {}
    assert link.calls == [("register", "site-a"), ("unregister", 7)]


def test_one_bad_row_does_not_stop_the_others(folder, tmp_path, link, caplog):
    """As fedtl 0.1.0 wrote it for an expelled key; and a key that is none."""
    link.healthy, rows = False, {}
    for name in ("a", "b", "c"):
        create_node_key(tmp_path / name, name)
        admit_site(folder, tmp_path / f"{name}.pub", "")
    rows = read_admitted(folder)
    write_admitted(folder, {**rows, "b": replace(rows["b"], key="ssh-rsa nonsense")})
    link.known[public_key_pem(rows["a"].key)] = FlowerNode(3, True)
    register_sites(folder)
    assert node_ids(folder) == {"c": 8}
    text = {name: str(site) for name, site in read_admitted(folder).items()}
    assert "never accepts" in text["a"]
    assert "not a public key" in text["b"]
    assert text["c"] == "registered"
    assert {record.args[0] for record in caplog.records} == {"a", "b"}
    expel_site(folder, "b")
    expel_site(folder, "a")
    assert list(read_admitted(folder)) == ["c"]


def test_a_site_whose_registration_is_not_answered_keeps_its_row(folder, tmp_path, link, monkeypatch):
    """It is registered at the next start. Noted as one that cannot take part, it would be left out of every round until then."""
    create_node_key(tmp_path / "a", "a")
    admit_site(folder, tmp_path / "a.pub", "")
    before = read_admitted(folder)
    link.known.clear()

    def silent(key, name):
        raise NoAnswer("the SuperLink did not answer")

    with monkeypatch.context() as patch:
        patch.setattr(link, "register", silent)
        with pytest.raises(NoAnswer):
            register_sites(folder)
    assert read_admitted(folder) == before
    register_sites(folder)
    assert node_ids(folder) == {"a": 7}


def test_a_key_that_the_superlink_knows_is_not_registered_twice(folder, tmp_path, link):
    """The server was killed between the registration and the note of it; and a database that was lost."""
    create_node_key(tmp_path / "a", "a")
    admit_site(folder, tmp_path / "a.pub", "")
    write_admitted(folder, {"a": replace(read_admitted(folder)["a"], node=0)})
    register_sites(folder)
    assert node_ids(folder) == {"a": 7}
    assert link.calls == [("register", "a")]
    link.known.clear()
    register_sites(folder)
    assert link.calls == [("register", "a")] * 2


def test_a_suspended_site_is_not_asked_until_it_is_readmitted(folder, tmp_path, link):
    create_node_key(tmp_path / "a", "a")
    admit_site(folder, tmp_path / "a.pub", "")
    suspend_site(folder, "a", True)
    assert node_ids(folder) == {}
    with pytest.raises(ConfigError, match="already"):
        suspend_site(folder, "a", True)
    register_sites(folder)
    assert str(read_admitted(folder)["a"]) == "suspended"
    suspend_site(folder, "a", False)
    assert node_ids(folder) == {"a": 7}
    with pytest.raises(ConfigError, match="not admitted"):
        suspend_site(folder, "b", True)


def test_openssh_prints_the_same_fingerprint(tmp_path):
    create_node_key(tmp_path / "k", "me")
    done = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "k.pub"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[1] == fingerprint(read_public_key(tmp_path / "k.pub"))


def test_a_crashed_run_is_stopped_before_its_study_is_resumed(folder, monkeypatch, link):
    """A site may wait for the rest of a message of that run. Stopping a run that has already ended must not fail."""
    link.refuses = (7,)
    (begun(folder) / "runs.jsonl").write_text('{"run": 6, "at": 0}\n{"run": "7", "at": 0}\n')
    monkeypatch.setattr(studies, "_submit", lambda *_: link.calls.append("submitted"))
    studies.resume_studies(folder)
    assert link.calls == [("stop", 7), "submitted"]


@pytest.mark.parametrize(("text", "ended"), [("", []), ('{"run": 6, "at": 0}\n{"run": 7, "a', [("stop", 6)])])
def test_an_incomplete_line_in_runs_jsonl_does_not_stop_the_server(text, ended, folder, monkeypatch, link):
    (begun(folder) / "runs.jsonl").write_text(text)
    monkeypatch.setattr(studies, "_submit", lambda *_: link.calls.append("submitted"))
    studies.resume_studies(folder)
    assert link.calls == [*ended, "submitted"]


def test_the_commands_of_a_coordinator(tmp_path, monkeypatch, capsys):
    """The commands that need no running server. A mistake gives one line and exit code 2."""

    def said(*words, code=0, side="server"):
        monkeypatch.setattr("sys.argv", ["fedtl", side, *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        return capsys.readouterr()

    folder = tmp_path / "srv"
    printed = said("init", folder, "--host", "fl.example.org", "--port", free_port()).err
    assert certificate_fingerprint(folder / "tls" / "ca.crt") in printed  # to compare by telephone
    assert "is not empty" in said("init", folder, "--host", "x", code=2).err
    for odd in ("a$b", "a?b", 'a"b', "a\\b", "a\nb"):
        assert "choose another folder" in said("init", tmp_path / odd / "srv", "--host", "x", code=2).err
        assert not (tmp_path / odd).exists()
    created = said(
        "init", tmp_path / "site", "--name", "clinic", "--server", "fl.example.org:1", side="silo"
    ).err
    key = tmp_path / "site" / "node.key.pub"
    admitted = said("admit", folder, key).err
    assert "when the server starts" in admitted
    assert fingerprint(read_public_key(key)) in created
    assert fingerprint(read_public_key(key)) in admitted
    assert "server rotate" in said("admit", folder, key, code=2).err
    words = ("digits", "--set", "rounds=2", "--dp-ready")
    printed = said("bundle", folder, *words).out
    bundle = Bundle(folder / "bundles" / "digits")
    assert printed.strip() == bundle.hash
    assert bundle.info("x").config.limits.weights == "equal"
    status = json.loads(said("status", folder, "--json").out)
    assert (status["running"], status["listen"], status["studies"]) == (False, "127.0.0.1:8443", {})
    assert set(status["admitted"]) == {"clinic"}
    assert "waits" in status["admitted"]["clinic"]
    assert "no SuperLink runs" in said("start", folder, "digits", code=2).err
    assert not (folder / "studies").exists()  # whose end `fedtl server watch` would wait for
    assert "no bundle 'other'" in said("start", folder, "other", code=2).err
    assert "no server runs" in said("stop", folder, code=2).err
    assert "'local'" in said("bundle", folder, "digits", "--set", "method.name=local", code=2).err


@pytest.mark.parametrize(
    ("settings", "dp_ready", "limits"),
    [
        ([], False, UpdateLimits("rows", 10_000.0, 1000.0)),
        (["updates.max_norm=5"], False, UpdateLimits("rows", 10_000.0, 5.0)),
        (["privacy.epsilon=3"], False, UpdateLimits("equal", 10_000.0, 1000.0)),
        ([], True, UpdateLimits("equal", 10_000.0, 1000.0)),
        (['updates.weights="rows"'], True, UpdateLimits("rows", 10_000.0, 1000.0)),
    ],
)
def test_a_plan_for_institutions_limits_every_update(settings, dp_ready, limits):
    experiment = load_experiment("digits", settings)
    resolved = _limited(experiment, dp_ready)
    assert limits_of(resolved) == limits
    assert limits_of(load_experiment("digits").updates) == UpdateLimits()  # a simulation has none
    agreement = make_agreement(
        experiment.model_copy(update={"updates": resolved}), (1, 8, 8), ("0", "1"), "", dp_ready
    )
    assert agreement.experiment.updates == resolved
