"""Changed rows: refused until the steward says that they are right; what was spent stays spent."""

import pytest
import torch
from federation import Federation, fedtl_command
from test_attend import PRIVATE, Site

from fedtl import confirm as module
from fedtl.confirm import confirm
from fedtl.data.raw import Part, Raw
from fedtl.errors import ConfigError
from fedtl.home.folder import Home
from fedtl.messages import Update
from fedtl.place import Place
from fedtl.policy import Code
from fedtl.steward import budget, export, history


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
    sound = Place.raw.func

    def more(self):
        raw = sound(self)
        return Raw(Part(raw.train.x[1:], raw.train.y[1:]))

    monkeypatch.setattr(Place, "raw", property(more))
    for _ in range(2):
        site.refused(site.task(2), Code.DECLINED, "the rows have changed")
    (met,) = (line for line in history(site.home) if line["what"] == "changed")
    shown = f"rows {met['before'][:12]} are now {met['fingerprint'][:12]}"
    assert met["book"] == "ledger"
    assert shown in fedtl_command("silo", "ledger", site.home.path).stdout
    assert f"changed ({met['fingerprint'][:12]})" in fedtl_command("silo", "status", site.home.path).stdout
    export(site.home, tmp_path / "papers.jsonl")
    for where in (site.home.path, tmp_path / "papers.jsonl"):
        assert f"WAITING: the rows have changed ({met['fingerprint'][:12]})" in verified(where)
    facts = confirm(site.home, site.file)
    assert (facts["before"], facts["now"]) == (met["before"], met["fingerprint"])
    assert facts["epsilon_spent"] == spent == budget(site.home)["spent"]
    assert site.lines()[-1]["what"] == "confirmed"
    assert "WAITING" not in verified(site.home.path)
    reply = site.ask(site.task(2))
    assert isinstance(reply, Update)
    assert all(torch.isfinite(tensor).all() for tensor in reply.delta.values())
    assert budget(site.home)["spent"] > spent


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
