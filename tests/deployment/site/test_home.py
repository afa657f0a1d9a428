"""silo.toml and the site's folder: the defaults, refused settings, readiness checks, and exported records."""

import json
import tomllib
from pathlib import Path

import pytest
import tomli_w

from fedtl.cli.options import open_home
from fedtl.deployment.site.egress_lines import Disconnected
from fedtl.deployment.site.egress_log import verify_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.readiness import check_readiness
from fedtl.deployment.site.settings import HomeSettings, load_home_settings
from fedtl.deployment.site.site_plan import choose_device
from fedtl.errors import ConfigError, LedgerDamaged
from fedtl.experiment.config.settings_file import validate
from tests.real_processes import fedtl_command

EXAMPLES = sorted((Path(__file__).parents[3] / "clients").glob("*.toml"))


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "clinic", "fl.example.org:8443")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_settings(path):
    HomeSettings.model_validate(tomllib.loads(path.read_text()))


def test_a_new_silo_toml_requires_privacy_and_keeps_the_head(home):
    policy = home.settings.policy.policy
    assert policy.private
    assert policy.roles == {"body", "aux", "norm"}
    assert (policy.metrics, policy.share_row_count) == (frozenset(), False)
    assert HomeSettings(name="x", server="h:1").policy.policy.roles == frozenset()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("max_bytes_per_round = 50_000_000", "max_byte = 5", '"policy.max_byte"'),
        ('device = "auto"', 'device = "tpu"', "device = 'tpu'"),
        ("epsilon = 3.0", "epsilon = 0.0", "policy.privacy.epsilon = 0.0"),
        ('server = "fl.example.org:8443"', 'server = "fl.example.org"', "must be HOST:PORT"),
        ("share_row_count = false", "share_row_count = 1", "policy.share_row_count = 1"),
        ("[policy]", "[policy", "is not TOML"),
    ],
)
def test_a_mistake_in_silo_toml_is_named(home, old, new, match):
    path = home.path / "silo.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=match):
        load_home_settings(home.path)


def test_a_site_runs_no_query():
    with pytest.raises(ConfigError, match="CSV or Parquet"):
        validate(HomeSettings, {"name": "x", "server": "h:1", "data": {"source": "sql", "query": "SELECT 1"}})


OLD_KEYS = [
    ("data", "split", "split_seed", 7),
    ("policy", "bytes", "max_bytes_per_round", 5),
    ("policy", "norm", "max_update_norm", 2.0),
    ("policy", "rows", "share_row_count", True),
]


def with_old_keys(path, keys=OLD_KEYS, keep_new=False):
    """Write these settings into a silo.toml under the names that fedtl 0.1.0 had for them."""
    table = tomllib.loads(path.read_text())
    for section, old, new, value in keys:
        table[section][old] = value
        if not keep_new:
            del table[section][new]
    path.write_text(tomli_w.dumps(table))


def test_old_keys_are_accepted_and_noted_by_commands_only(home, capsys):
    """The site's processes open the folder in every round; the log has the note once, from `fedtl silo run`."""
    with_old_keys(home.path / "silo.toml")
    settings = load_home_settings(home.path)
    Home.open(home.path)
    assert capsys.readouterr().err == ""
    open_home(home.path)
    assert settings.data.split_seed == 7
    assert settings.policy.policy.max_bytes_per_round == 5
    assert settings.policy.policy.max_update_norm == 2.0
    assert settings.policy.policy.share_row_count is True
    (note,) = capsys.readouterr().err.splitlines()
    for section, old, new, _ in OLD_KEYS:
        assert f"{section}.{old} is now {section}.{new}" in note


def test_a_file_with_new_keys_gets_no_note(home, capsys):
    assert open_home(home.path).settings.old_keys == ""
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", OLD_KEYS, ids=lambda key: key[1])
def test_a_setting_under_both_of_its_names_is_refused(home, key):
    with_old_keys(home.path / "silo.toml", [key], keep_new=True)
    with pytest.raises(ConfigError, match=f"remove {key[0]}.{key[1]}$"):
        load_home_settings(home.path)


def test_a_wrong_value_under_an_old_key_is_refused(home):
    with_old_keys(home.path / "silo.toml", [("policy", "bytes", "max_bytes_per_round", -1)])
    with pytest.raises(ConfigError, match="policy.max_bytes_per_round = -1"):
        load_home_settings(home.path)


def test_init_refuses_a_used_folder_and_a_bad_name(tmp_path, home):
    with pytest.raises(ConfigError, match="is not empty"):
        Home.create(home.path, "clinic", "fl.example.org:8443")
    with pytest.raises(ConfigError, match="name = '../x'"):
        Home.create(tmp_path / "other", "../x", "fl.example.org:8443")
    assert not (tmp_path / "other").exists()


def test_a_missing_gpu_is_an_error_for_cuda_only(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match='device = "cuda"'):
        choose_device("cuda")


def test_check_reports_each_item(home):
    said = {check.name: (check.ok, check.text) for check in check_readiness(home)}
    assert [name for name, (ok, _) in said.items() if ok] == [
        "file modes",
        "device",
        "key",
        "disk",
        "hours",
        "encryption",
        "ledger",
    ]
    assert "ca.crt is missing" in said["certificate"][1]
    assert "fedtl silo rehearse" in said["approvals"][1]
    assert said["connection"][1] == said["clock"][1] == "not checked, because ca.crt is missing"
    (home.path / "node.key.pub").write_bytes(b"x")
    assert not {check.name: check.ok for check in check_readiness(home)}["key"]


def test_an_exported_record_shows_alterations(home, tmp_path):
    for number in range(3):
        home.record.append(Disconnected(reason=f"number {number}"))
    lines = list(home.record.export())
    assert [line["reason"] for line in verify_lines(lines, "x")] == ["number 0", "number 1", "number 2"]
    altered = [line.replace("number 1", "number 7") for line in lines]
    assert altered != lines
    for damaged in (altered, [lines[0], lines[2]], lines[::-1], ["{", *lines]):
        with pytest.raises(LedgerDamaged, match="was altered"):
            verify_lines(damaged, "x")
    path = tmp_path / "record.jsonl"
    fedtl_command("silo", "ledger", home.path, "--export", path)
    assert "chain of 3 lines" in fedtl_command("silo", "verify", path).stderr
    path.write_text("\n".join(altered))
    assert "line 2 was altered" in fedtl_command("silo", "verify", path, code=3).stderr


def test_the_commands_print_json(home):
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
    assert "--part 'x'" in said
