"""The SuperNode of a site runs approved bundles only."""

import io
import subprocess
import sys
import warnings
import zipfile
from importlib.metadata import packages_distributions
from types import SimpleNamespace

import flwr.supernode.start_client_internal as node
import pytest
from flwr.supercore import heartbeat
from flwr.supercore.fab import Fab
from flwr.supernode import fleet_http_connection

import fedtl.deployment.site.supernode
from fedtl.deployment import bundle_contents
from fedtl.deployment.bundle_contents import check_bundle_contents
from fedtl.deployment.coordinator.bundle import build_bundle
from fedtl.deployment.flower_version import check_flower
from fedtl.deployment.site.approvals import Approval, add_approval
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.supernode import KNOWN_HASH, arguments, refusal_reason, restrict_to_approved
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from tests.real_processes import Federation, around


def packed(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        for name, text in files.items():
            zipped.writestr(name, text)
    return content.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build_bundle(tmp_path_factory.mktemp("server") / "bundles", "digits", load_experiment("digits"))


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "here", "localhost:1")


def list_as_approved(home, digest):
    add_approval(home.approved, Approval(digest, *["0" * 64] * 4))


def test_an_approved_bundle_runs_and_any_other_does_not(home, made):
    content = made.file.read_bytes()
    assert "approved bundles: 0" in refusal_reason(home, content)
    list_as_approved(home, made.hash)
    assert refusal_reason(home, content) is None
    assert "approved bundles: 1" in refusal_reason(home, content + b"\0")
    home.approved.write_text("")
    assert "approved bundles: 0" in refusal_reason(home, content)
    home.approved.unlink()
    assert "approved bundles: 0" in refusal_reason(home, content)


@pytest.mark.parametrize(
    ("name", "mode", "match"),
    [
        ("server/link.py", 0o120644, "a link or a special"),
        ("server/pipe.py", 0o010644, "a link or a special"),
        ("server/tool.py", 0o100755, "which is executable"),
        ("server/app.py", 0o100644, "which are one path"),
        ("server/APP.py", 0o100644, "which are one path"),
    ],
)
def test_a_bundle_holds_plain_files_only(made, name, mode, match):
    check_bundle_contents(made.file.read_bytes())
    content = io.BytesIO(packed(**{"server/app.py": ""}))
    with zipfile.ZipFile(content, "a") as zipped:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of the second entry of a name
            zipped.writestr(entry, "../../secret")
    with pytest.raises(ConfigError, match=match):
        check_bundle_contents(content.getvalue())


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("fedtl/__init__.py", "'fedtl', which would"),
        ("torch/__init__.py", "'torch', which would"),
        ("numpy.py", "'numpy.py', which would"),
        ("json/__init__.py", "'json', which would"),
        ("_cffi_backend.py", "'_cffi_backend.py', which would"),  # installed as a compiled module
        ("_pytest/__init__.py", "'_pytest', which would"),  # a package of a distribution of another name
        ("data/patients.json", "'data'; it may"),
        ("server/../../etc/x.py", "outside its folder"),
        ("/etc/passwd", "outside its folder"),
    ],
)
def test_a_bundle_with_other_files_is_refused_even_if_approved(home, name, match):
    from hashlib import sha256

    content = packed(**{"server/app.py": "", name: ""})
    list_as_approved(home, sha256(content).hexdigest())
    with pytest.raises(ConfigError, match=match):
        check_bundle_contents(content)
    assert "bundle" in refusal_reason(home, content)


def test_installed_names_are_those_of_importlib():
    names = packages_distributions()
    some = [*sorted(names)[::23], "experiments", "pyproject.toml", ".info", "numpy.py"]
    assert {name: bundle_contents._is_installed(name) for name in some} == {
        name: name in names and name.isidentifier() for name in some
    }


def test_the_size_of_a_bundle_is_limited(monkeypatch):
    with pytest.raises(ConfigError, match="10,485,761"):
        check_bundle_contents(b"x" * ((10 << 20) + 1))
    with pytest.raises(ConfigError, match="not a .fab"):
        check_bundle_contents(b"x")
    bomb = packed(**{"server/app.py": "\0" * (40 << 20)})
    with pytest.raises(ConfigError, match="not a .fab|limit"):
        check_bundle_contents(bomb[: 20 << 20] if len(bomb) > 10 << 20 else bomb)


def test_the_supernode_polls_until_a_message_arrives(monkeypatch, home):
    found = [7, None, None]
    monkeypatch.setattr(node, "_pull_and_store_message", lambda **_: found.pop())
    monkeypatch.setattr(node, "_verify_fab", node._verify_fab)
    monkeypatch.setattr(node, "time", node.time)
    monkeypatch.setattr(fedtl.deployment.site.supernode, "SHORTEST_POLL", 0.01)
    restrict_to_approved(home)
    assert node._pull_and_store_message(get_run=None, get_fab=None) == 7


def test_the_idle_processes_of_a_site_do_not_import_torch():
    """Supervisor, SuperNode and SuperExec stay small; the process of a round imports what it needs."""
    code = "import sys, fedtl.deployment.site.run, fedtl.deployment.site.supernode, fedtl.deployment.site.superexec; from fedtl.deployment.site import egress_log as record; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=around(), capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_flower_uses_the_heartbeat_of_silo_toml(monkeypatch, home):
    for module in (heartbeat, fleet_http_connection):
        assert module.HEARTBEAT_DEFAULT_INTERVAL == 30
        monkeypatch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 30)
    for name in ("_pull_and_store_message", "_verify_fab"):
        monkeypatch.setattr(node, name, getattr(node, name))
    Federation.change(home.path / "silo.toml", heartbeat=12)
    restrict_to_approved(Home.open(home.path))
    assert [its.HEARTBEAT_DEFAULT_INTERVAL for its in (heartbeat, fleet_http_connection)] == [12, 12]


def test_it_refuses_to_start_with_another_flower(monkeypatch, home):
    check_flower(node, KNOWN_HASH)
    monkeypatch.setattr(fedtl.deployment.site.supernode, "KNOWN_HASH", "0" * 64)
    with pytest.raises(ConfigError, match="flwr=="):
        restrict_to_approved(home)


@pytest.fixture
def pinned(monkeypatch, home):
    """``_pull_and_store_message`` after ``restrict_to_approved``; calling it returns whether Flower accepts the bundle."""
    told = {}

    def original(*, get_run, get_fab, trusted_entities, **_):
        run = get_run(7)
        fab = get_fab("hash", 7)
        assert trusted_entities, "an empty mapping switches Flower's check off"
        told["taken"] = bool(fab.verifications.get("valid_license")) and node._verify_fab(
            fab, trusted_entities
        )
        return run.run_id

    monkeypatch.setattr(node, "_pull_and_store_message", original)
    monkeypatch.setattr(node, "_verify_fab", node._verify_fab)
    for module in (heartbeat, fleet_http_connection):
        monkeypatch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 30)
    restrict_to_approved(home)

    def pull(content, kind="flwr-serverapp"):
        node._pull_and_store_message(
            get_run=lambda run_id: SimpleNamespace(run_id=run_id, primary_task_type=kind),
            get_fab=lambda digest, run_id: Fab(digest, content, {}),
            trusted_entities=None,
        )
        return told["taken"]

    return pull


def test_flowers_own_check_uses_the_approved_list(pinned, home, made):
    content = made.file.read_bytes()
    assert not pinned(content)
    assert "is not approved" in home.record.lines()[-1].entry.reason
    list_as_approved(home, made.hash)
    assert pinned(content)
    assert not pinned(content, kind="flwr-agentapp")
    assert "'flwr-agentapp'" in home.record.lines()[-1].entry.reason


def test_no_secret_is_in_the_supernodes_command_line(home):
    words = " ".join(arguments(home)).encode()
    for file in ("node.key", "secret", "exec.secret"):
        assert (home.path / file).read_bytes() not in words
    assert "--insecure" not in arguments(home)
