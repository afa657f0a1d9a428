"""silo.toml and the folder: what is written, what is refused, and what a third party can check."""

import json
import tomllib
from pathlib import Path

import pytest

from fedtl.deployment.site.egress_log import verify
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.settings import HomeSettings, load
from fedtl.deployment.site.site_plan import device_of
from fedtl.deployment.site.status import check
from fedtl.errors import ConfigError, LedgerDamaged
from tests.real_processes import fedtl_command

EXAMPLES = sorted((Path(__file__).parents[3] / "clients").glob("*.toml"))


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "clinic", "fl.example.org:8443")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_settings(path):
    HomeSettings.model_validate(tomllib.loads(path.read_text()))


def test_a_new_home_lets_nothing_out_without_privacy_and_never_the_head(home):
    policy = home.settings.policy.policy
    assert policy.private
    assert policy.roles == {"body", "aux", "norm"}
    assert (policy.metrics, policy.rows) == (frozenset(), False)
    assert HomeSettings(name="x", server="h:1").policy.policy.roles == frozenset()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("bytes = 50_000_000", "byte = 5", "policy.byte"),
        ('device = "auto"', 'device = "tpu"', "device = 'tpu'"),
        ("epsilon = 3.0", "epsilon = 0.0", "policy.privacy.epsilon = 0.0"),
        ('server = "fl.example.org:8443"', 'server = "fl.example.org"', "must be HOST:PORT"),
        ("rows = false", "rows = 1", "policy.rows = 1"),
        ("[policy]", "[policy", "is not TOML"),
    ],
)
def test_a_mistake_in_silo_toml_is_named(home, old, new, match):
    path = home.path / "silo.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=match):
        load(home.path)


def test_a_home_is_made_once_and_with_a_name(tmp_path, home):
    with pytest.raises(ConfigError, match="is not empty"):
        Home.create(home.path, "clinic", "fl.example.org:8443")
    with pytest.raises(ConfigError, match="name = '../x'"):
        Home.create(tmp_path / "other", "../x", "fl.example.org:8443")
    assert not (tmp_path / "other").exists()


def test_a_gpu_that_is_not_there_is_an_error_unless_either_will_do(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == "cpu"
    with pytest.raises(ConfigError, match='device = "cuda": this torch sees no CUDA device'):
        device_of("cuda")


def test_check_says_for_each_line_what_to_do(home):
    said = {name: (ok, text) for name, ok, text in check(home)}
    assert [name for name, (ok, _) in said.items() if ok] == [
        "file modes",
        "device",
        "key",
        "disk",
        "encryption",
        "ledger",
    ]
    assert "get ca.crt from the coordinator" in said["certificate"][1]
    assert "fedtl silo rehearse" in said["approvals"][1]
    assert said["connection"][1] == said["clock"][1] == "cannot be tried without ca.crt"
    (home.path / "node.key.pub").write_bytes(b"x")
    assert not {name: ok for name, ok, _ in check(home)}["key"]


def test_an_exported_record_shows_what_was_done_to_it(home, tmp_path):
    for number in range(3):
        home.record.note("test", value=number)
    lines = list(home.record.export())
    assert [line["value"] for line in verify(lines, "x")] == [0, 1, 2]
    altered = [line.replace('\\"value\\":1', '\\"value\\":7') for line in lines]
    assert altered != lines
    for damaged in (altered, [lines[0], lines[2]], lines[::-1], ["{", *lines]):
        with pytest.raises(LedgerDamaged, match="was altered, or one before it is gone"):
            verify(damaged, "x")
    path = tmp_path / "record.jsonl"
    fedtl_command("silo", "ledger", home.path, "--export", path)
    assert "chain of 3 lines" in fedtl_command("silo", "verify", path).stderr
    path.write_text("\n".join(altered))
    assert "line 2 was altered" in fedtl_command("silo", "verify", path, code=3).stderr


def test_the_commands_speak_json(home):
    status = json.loads(fedtl_command("silo", "status", home.path, "--json").stdout)
    assert status["bytes_out"] == 0
    nothing = {
        "dataset": "clinic",
        "spent": 0.0,
        "charged": 0.0,
        "lifetime": 10.0,
        "left": 10.0,
        "rounds": {},
        "waiting": "",
        "new": False,
    }
    assert status["budget"] == nothing
    assert json.loads(fedtl_command("silo", "ledger", home.path, "--json").stdout) == []
    said = fedtl_command("silo", "run", home.path, "--part", "x", code=2).stderr
    assert "--part 'x' is not one of node, exec" in said
