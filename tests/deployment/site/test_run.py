"""The launcher: what runs at a site is on the site's own list, or nothing runs."""

import io
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import flwr.supernode.start_client_internal as node
import pytest
from flwr.supercore import heartbeat
from flwr.supercore.fab import Fab
from flwr.supernode import fleet_http_connection

import fedtl.deployment.site.supernode
from fedtl.deployment.bundle_contents import check_contents
from fedtl.deployment.coordinator.bundle import bundle
from fedtl.deployment.site import approvals
from fedtl.deployment.site.flower_version import check
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.supernode import KNOWN, arguments, pin, refusal
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
    return bundle(tmp_path_factory.mktemp("server") / "bundles", "digits", load_experiment("digits"))


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "here", "localhost:1")


def list_as_approved(home, digest):
    approvals.approve(home.approved, approvals.Approval(digest, *["0" * 64] * 4))


def test_an_approved_bundle_runs_and_any_other_does_not(home, made):
    content = made.file.read_bytes()
    assert "is not approved (0 are)" in refusal(home, content)
    list_as_approved(home, made.hash)
    assert refusal(home, content) is None
    assert "is not approved (1 are)" in refusal(home, content + b"\0")
    home.approved.write_text("")
    assert "is not approved (0 are)" in refusal(home, content)
    home.approved.unlink()
    assert "is not approved (0 are)" in refusal(home, content)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("fedtl/__init__.py", "'fedtl', which would shadow"),
        ("torch/__init__.py", "'torch', which would shadow"),
        ("numpy.py", "'numpy.py', which would shadow"),
        ("json/__init__.py", "'json', which would shadow"),
        ("data/patients.json", "'data'; it may hold"),
        ("server/../../etc/x.py", "out of its folder"),
        ("/etc/passwd", "out of its folder"),
    ],
)
def test_a_bundle_that_holds_more_is_refused_even_if_it_was_approved(home, name, match):
    from hashlib import sha256

    content = packed(**{"server/app.py": "", name: ""})
    list_as_approved(home, sha256(content).hexdigest())
    with pytest.raises(ConfigError, match=match):
        check_contents(content)
    assert "bundle" in refusal(home, content)


def test_a_bundle_is_bounded(monkeypatch):
    with pytest.raises(ConfigError, match="the most is"):
        check_contents(b"x" * ((10 << 20) + 1))
    with pytest.raises(ConfigError, match="no bundle"):
        check_contents(b"x")
    bomb = packed(**{"server/app.py": "\0" * (40 << 20)})
    with pytest.raises(ConfigError, match="no bundle|the most|unpacks"):
        check_contents(bomb[: 20 << 20] if len(bomb) > 10 << 20 else bomb)


def test_a_question_that_finds_nothing_is_asked_again(monkeypatch, home):
    found = [7, None, None]
    monkeypatch.setattr(node, "_pull_and_store_message", lambda **_: found.pop())
    monkeypatch.setattr(node, "_verify_fab", node._verify_fab)
    monkeypatch.setattr(fedtl.deployment.site.supernode, "LOOK", 0.01)
    pin(home)
    assert node._pull_and_store_message(get_run=None, get_fab=None) == 7


def test_a_site_without_a_round_holds_no_torch():
    """Its supervisor, SuperNode and SuperExec stay small; what a round needs is loaded where it is forked."""
    code = "import sys, fedtl.deployment.site.run, fedtl.deployment.site.supernode, fedtl.deployment.site.superexec; from fedtl.deployment.site import egress_log as record; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=around(), capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_flowers_signs_of_life_come_as_often_as_the_home_says(monkeypatch, home):
    for module in (heartbeat, fleet_http_connection):
        assert module.HEARTBEAT_DEFAULT_INTERVAL == 30
        monkeypatch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 30)
    for name in ("_pull_and_store_message", "_verify_fab"):
        monkeypatch.setattr(node, name, getattr(node, name))
    Federation.change(home.path / "silo.toml", heartbeat=12)
    pin(Home.open(home.path))
    assert [its.HEARTBEAT_DEFAULT_INTERVAL for its in (heartbeat, fleet_http_connection)] == [12, 12]


def test_it_refuses_to_start_with_another_flower(monkeypatch, home):
    check(node, KNOWN)
    monkeypatch.setattr(fedtl.deployment.site.supernode, "KNOWN", "0" * 64)
    with pytest.raises(ConfigError, match="pip install flwr=="):
        pin(home)


@pytest.fixture
def pinned(monkeypatch, home):
    """``_pull_and_store_message`` as the launcher makes it; returns whether Flower would take the bundle."""
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
    pin(home)

    def pull(content, kind="flwr-serverapp"):
        node._pull_and_store_message(
            get_run=lambda run_id: SimpleNamespace(run_id=run_id, primary_task_type=kind),
            get_fab=lambda digest, run_id: Fab(digest, content, {}),
            trusted_entities=None,
        )
        return told["taken"]

    return pull


def test_flowers_own_check_asks_the_list(pinned, home, made):
    content = made.file.read_bytes()
    assert not pinned(content)
    assert "is not approved" in home.record.lines()[-1]["reason"]
    list_as_approved(home, made.hash)
    assert pinned(content)
    assert not pinned(content, kind="flwr-agentapp")
    assert "'flwr-agentapp'" in home.record.lines()[-1]["reason"]


def test_no_secret_is_in_our_command_line(home):
    words = " ".join(arguments(home)).encode()
    for file in ("node.key", "secret", "exec.secret"):
        assert (home.path / file).read_bytes() not in words
    assert "--insecure" not in arguments(home)
