"""Changed rows: refused until the steward says that they are right; what was spent stays spent."""

import pytest
import torch

from fedtl.data.source import Part, Raw
from fedtl.deployment.site import confirm_rows as module
from fedtl.deployment.site.confirm_rows import admit, confirm
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.deployment.site.status import budget, export, history, verify_export, verify_home
from fedtl.errors import ConfigError, Refused
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.test_answer_round import PRIVATE, Site
from tests.real_processes import Federation, fedtl_command


@pytest.fixture
def site(tmp_path, monkeypatch):
    made = Site(tmp_path, dp_ready=True, policy__privacy=PRIVATE, policy__metrics=[], policy__rows=False)
    monkeypatch.setattr(module, "agreement_in", lambda content, name: ("s", made.place.agreement))
    return made


def test_rows_that_changed_wait_for_the_steward(site, monkeypatch, tmp_path):
    assert isinstance(site.ask(site.task()), Update)
    spent = budget(site.home)["spent"]
    with pytest.raises(ConfigError, match="nothing to confirm"):
        confirm(site.home, site.file)
    sound = SitePlan.raw.func

    def more(self):
        raw = sound(self)
        return Raw(Part(raw.train.x[1:], raw.train.y[1:]))

    monkeypatch.setattr(SitePlan, "raw", property(more))
    for _ in range(2):
        site.refused(site.task(2), Code.DECLINED, "rows have changed")
    (met,) = (line for line in history(site.home) if line["what"] == "changed")
    shown = f"from {met['before'][:12]} to {met['fingerprint'][:12]}"
    assert met["book"] == "ledger"
    assert shown in fedtl_command("silo", "ledger", site.home.path).stdout
    assert f"changed ({met['fingerprint'][:12]})" in fedtl_command("silo", "status", site.home.path).stdout
    export(site.home, tmp_path / "papers.jsonl")
    for where in (site.home.path, tmp_path / "papers.jsonl"):
        assert f"changed ({met['fingerprint'][:12]})" in verified(where)
    facts = confirm(site.home, site.file)
    assert (facts["before"], facts["now"]) == (met["before"], met["fingerprint"])
    assert facts["difference"] == "0 rows are new and 1 are gone"
    assert facts["epsilon_spent"] == spent == budget(site.home)["spent"]
    assert site.lines()[-1]["what"] == "confirmed"
    assert "NOT CONFIRMED" not in verified(site.home.path)
    before = budget(site.home)
    reply = site.ask(site.task(2))
    assert isinstance(reply, Update)
    assert all(torch.isfinite(tensor).all() for tensor in reply.delta.values())
    after = budget(site.home)
    assert after["spent"] == spent  # the plan's, from its first round on
    assert after["charged"] > before["charged"]


def verified(where):
    return fedtl_command("silo", "verify", where).stderr


def test_without_a_budget_there_is_nothing_to_confirm_for(site):
    assert isinstance(site.ask(site.task()), Update)
    Federation.change(site.home.path / "silo.toml", policy__privacy=None)
    with pytest.raises(ConfigError, match=r"has no \[policy.privacy\]"):
        confirm(Home.open(site.home.path), site.file)


def test_before_the_first_charge_there_is_nothing_to_confirm(site):
    with pytest.raises(ConfigError, match="nothing was ever charged"):
        confirm(site.home, site.file)


def as_stored(monkeypatch, change):
    """The site's rows as ``change`` makes them of what is stored."""
    sound = SitePlan.raw.func
    monkeypatch.setattr(SitePlan, "raw", property(lambda self: change(sound(self))))


def test_the_same_rows_in_another_order_are_the_same_rows(site, monkeypatch):
    assert isinstance(site.ask(site.task()), Update)
    as_stored(monkeypatch, lambda raw: Raw(Part(raw.train.x[::-1], raw.train.y[::-1])))
    assert isinstance(site.ask(site.task(2)), Update)
    assert [line["what"] for line in history(site.home) if line["book"] == "ledger"].count("changed") == 0


def test_a_new_dataset_waits_for_the_stewards_word(site, monkeypatch):
    """Said by every command; then it has a budget of its own, and both stay in the site's papers."""
    assert isinstance(site.ask(site.task()), Update)
    as_stored(monkeypatch, lambda raw: Raw(Part(255 - raw.train.x, raw.train.y)))
    Federation.change(site.home.path / "silo.toml", data__name="wards")
    site.approve()
    site.refused(site.task(study="t"), Code.DECLINED, "--new-dataset")
    assert "fedtl silo confirm DIR BUNDLE --new-dataset" in site.lines()[-1]["reason"]
    home = Home.open(site.home.path)
    assert budget(home)["new"]
    assert "wards is new" in fedtl_command("silo", "status", home.path).stdout
    with pytest.raises(
        ConfigError, match="wards: is not in this ledger, which has 'plain'; .* --new-dataset"
    ):
        confirm(home, site.file)
    facts = admit(home, site.file)
    assert (facts["dataset"], facts["beside"]) == ("wards", {"plain": 0})
    assert site.lines()[-1]["what"] == "admitted"
    assert isinstance(site.ask(site.task(study="t")), Update)
    assert not budget(home)["new"]
    with pytest.raises(ConfigError, match="^wards: .* already"):
        admit(home, site.file)
    facts = verify_home(home)
    assert facts["unpaid"] == []
    export(home, site.home.path / "papers.jsonl")
    assert verify_export(site.home.path / "papers.jsonl") == facts


def test_a_steward_who_says_new_of_the_same_rows_is_not_believed(site, monkeypatch):
    assert isinstance(site.ask(site.task()), Update)
    half = lambda raw: Raw(Part(raw.train.x[::2].astype("float64"), raw.train.y[::2].astype(str)))  # noqa: E731
    as_stored(monkeypatch, half)
    Federation.change(site.home.path / "silo.toml", data__name="wards")
    with pytest.raises(Refused, match="^wards: .* as 'plain'"):
        admit(Home.open(site.home.path), site.file)
