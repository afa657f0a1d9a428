"""Changed rows are refused until the steward confirms them; budget that was spent stays spent."""

import pytest
import torch

from fedtl.data import prepare
from fedtl.data.source import Part, Raw
from fedtl.deployment.site import confirm_rows as module
from fedtl.deployment.site.confirm_rows import admit_new_dataset, confirm_changed_rows
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.status import dataset_budget, record_and_ledger_lines
from fedtl.deployment.site.verification import export_lines, verify_export, verify_home
from fedtl.errors import ConfigError, Refused
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.sites import PRIVATE, Site
from tests.real_processes import Federation, fedtl_command


@pytest.fixture
def site(tmp_path, monkeypatch):
    made = Site(
        tmp_path, dp_ready=True, policy__privacy=PRIVATE, policy__metrics=[], policy__share_row_count=False
    )
    monkeypatch.setattr(module, "read_agreement", lambda content, name: ("s", made.plan.agreement))
    return made


def test_changed_rows_are_refused_until_confirmed(site, monkeypatch, tmp_path):
    assert isinstance(site.ask(site.task()), Update)
    spent = dataset_budget(site.home).spent
    with pytest.raises(ConfigError, match="nothing to confirm"):
        confirm_changed_rows(site.home, site.file)
    as_stored(monkeypatch, lambda raw: Raw(Part(raw.train.x[1:], raw.train.y[1:])))
    for _ in range(2):
        site.refused(site.task(2), Code.DECLINED, "rows have changed")
    (met,) = (line for line in record_and_ledger_lines(site.home) if line["what"] == "changed")
    shown = f"from {met['before'][:12]} to {met['fingerprint'][:12]}"
    assert met["book"] == "ledger"
    assert shown in fedtl_command("silo", "ledger", site.home.path).stdout
    assert f"changed ({met['fingerprint'][:12]})" in fedtl_command("silo", "status", site.home.path).stdout
    export_lines(site.home, tmp_path / "papers.jsonl")
    for where in (site.home.path, tmp_path / "papers.jsonl"):
        assert f"changed ({met['fingerprint'][:12]})" in verified(where)
    facts = confirm_changed_rows(site.home, site.file)
    assert (facts.before, facts.now) == (met["before"], met["fingerprint"])
    assert facts.difference == "0 rows are new and 1 are gone"
    assert facts.epsilon_spent == spent == dataset_budget(site.home).spent
    assert site.lines()[-1]["what"] == "confirmed"
    assert "NOT CONFIRMED" not in verified(site.home.path)
    before = dataset_budget(site.home)
    reply = site.ask(site.task(2))
    assert isinstance(reply, Update)
    assert all(torch.isfinite(tensor).all() for tensor in reply.delta.values())
    after = dataset_budget(site.home)
    assert after.spent == spent  # the plan's, from its first round on
    assert after.charged > before.charged


def verified(where):
    return fedtl_command("silo", "verify", where).stderr


def test_confirming_needs_a_privacy_budget(site):
    assert isinstance(site.ask(site.task()), Update)
    Federation.change(site.home.path / "silo.toml", policy__privacy=None)
    with pytest.raises(ConfigError, match=r"has no \[policy.privacy\]"):
        confirm_changed_rows(Home.open(site.home.path), site.file)


def test_before_the_first_charge_there_is_nothing_to_confirm(site):
    with pytest.raises(ConfigError, match="nothing was charged"):
        confirm_changed_rows(site.home, site.file)


def as_stored(monkeypatch, change):
    """Let every later read of the site's rows return ``change`` of the stored rows."""
    read = prepare.read_silo
    monkeypatch.setattr(prepare, "read_silo", lambda settings, name: change(read(settings, name)))


def test_another_order_of_the_rows_is_no_change(site, monkeypatch):
    assert isinstance(site.ask(site.task()), Update)
    as_stored(monkeypatch, lambda raw: Raw(Part(raw.train.x[::-1], raw.train.y[::-1])))
    assert isinstance(site.ask(site.task(2)), Update)
    assert [line["what"] for line in record_and_ledger_lines(site.home) if line["book"] == "ledger"].count(
        "changed"
    ) == 0


def test_a_new_dataset_is_refused_until_admitted(site, monkeypatch):
    """Every command says so. Once admitted it has its own budget, and the ledger keeps both datasets."""
    assert isinstance(site.ask(site.task()), Update)
    as_stored(monkeypatch, lambda raw: Raw(Part(255 - raw.train.x, raw.train.y)))
    Federation.change(site.home.path / "silo.toml", data__name="wards")
    site.approve()
    site.refused(site.task(study="t"), Code.DECLINED, "--new-dataset")
    assert "--new-dataset" in site.lines()[-1]["reason"]
    home = Home.open(site.home.path)
    assert dataset_budget(home).new
    assert "wards is new" in fedtl_command("silo", "status", home.path).stdout
    with pytest.raises(ConfigError, match="'wards' .*--new-dataset"):
        confirm_changed_rows(home, site.file)
    facts = admit_new_dataset(home, site.file)
    assert (facts.dataset, facts.beside) == ("wards", {"plain": 0})
    assert site.lines()[-1]["what"] == "admitted"
    assert isinstance(site.ask(site.task(study="t")), Update)
    assert not dataset_budget(home).new
    with pytest.raises(ConfigError, match="^wards: .* already"):
        admit_new_dataset(home, site.file)
    facts = verify_home(home)
    assert facts.unpaid == []
    export_lines(home, site.home.path / "papers.jsonl")
    assert verify_export(site.home.path / "papers.jsonl") == facts


def test_the_same_rows_cannot_be_admitted_as_a_new_dataset(site, monkeypatch):
    assert isinstance(site.ask(site.task()), Update)
    half = lambda raw: Raw(Part(raw.train.x[::2].astype("float64"), raw.train.y[::2].astype(str)))  # noqa: E731
    as_stored(monkeypatch, half)
    Federation.change(site.home.path / "silo.toml", data__name="wards")
    with pytest.raises(Refused, match="^wards: .*'plain'"):
        admit_new_dataset(Home.open(site.home.path), site.file)
