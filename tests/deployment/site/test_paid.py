"""Deleted and older ledgers and records: no private round is charged, and every command says so."""

import shutil

import pytest

from fedtl.deployment.site.home import Home
from fedtl.deployment.site.paid import gaps
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.deployment.site.status import check, export, status, verify_export, verify_home
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.test_answer_round import PRIVATE, Site
from tests.real_processes import fedtl_command

SHUT = {"policy__metrics": [], "policy__rows": False}
LEDGER, RECORD = "ledger.sqlite*", "record.sqlite*"


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A site after two private rounds of four, and a copy of its folder after each."""
    folder = tmp_path_factory.mktemp("site")
    site = Site(folder, dp_ready=True, policy__privacy={**PRIVATE, "lifetime_epsilon": 30.0}, **SHUT)
    for number in (1, 2):
        assert isinstance(site.ask(site.task(number)), Update)
        shutil.copytree(site.home.path, folder / f"after {number}")
    return site, folder


@pytest.fixture
def site(used):
    """As after the second round, whatever a test did to it before."""
    site, folder = used
    put_back(site, folder / "after 2", "*")
    assert gaps(site.home) == []
    return site


def put_back(site, copy, *patterns):
    remove(site, *patterns)
    for pattern in patterns:
        for path in copy.glob(pattern):
            target = site.home.path / path.name
            shutil.copytree(path, target) if path.is_dir() else shutil.copy2(path, target)


def remove(site, *patterns):
    for pattern in patterns:
        for path in site.home.path.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def lost(site, words):
    """No round of this study or another is charged or answered, not even again, and the steward is told by each command."""
    site = again(site)
    before = site.home.ledger.read_bytes() if site.home.ledger.exists() else None
    for task in (site.task(2), site.task(3), site.task(1, study="fresh")):
        site.refused(task, Code.DECLINED, words)
        assert (
            "put ledger.sqlite and record.sqlite, each with its .tip, back from one copy"
            in site.lines()[-1]["reason"]
        )
        assert "\n" not in site.lines()[-1]["reason"]
    assert (site.home.ledger.read_bytes() if site.home.ledger.exists() else None) == before
    assert any(words in text for name, fine, text in check(site.home) if name == "ledger" and not fine)
    assert any(words in text for text in status(site.home)["gaps"])
    assert any(words in f"record {text}" or words in text for text in verify_home(site.home)["unpaid"])


def approve_anew(site):
    again(site)
    site.place = SitePlan(site.home, site.place.agreement)
    site.approve()


def again(site):
    site.home = Home.open(site.home.path)
    return site


def test_a_site_that_lost_nothing_goes_on(site):
    assert isinstance(site.ask(site.task(2)), Update)
    assert isinstance(site.ask(site.task(3)), Update)
    site.approve()
    assert isinstance(site.ask(site.task(1, study="fresh")), Update)
    assert status(site.home)["gaps"] == []
    assert verify_home(site.home)["unpaid"] == []
    assert next(fine for name, fine, _ in check(site.home) if name == "ledger")


def test_a_deleted_ledger(site):
    remove(site, LEDGER)
    lost(
        site,
        "was never charged",
    )
    said = fedtl_command("silo", "verify", site.home.path, code=3).stderr
    assert "NOT CHARGED: line" in said
    assert "MISSING" in fedtl_command("silo", "status", site.home.path).stdout
    export(site.home, site.home.path.parent / "papers.jsonl")
    assert "was never charged" in verify_export(site.home.path.parent / "papers.jsonl")["unpaid"][0]


def test_a_deleted_ledger_whose_tip_is_left(site):
    remove(site, "ledger.sqlite")
    site = again(site)
    for task in (site.task(3), site.task(1, study="fresh")):
        site.refused(task, Code.DECLINED, "plain has 0 lines and had ")
    assert any("plain has 0 lines" in text for name, fine, text in check(site.home) if not fine)


def test_an_older_ledger_put_back_with_its_tip(site, used):
    put_back(site, used[1] / "after 1", LEDGER)
    lost(site, "round 2 of 's' left as private, but was never charged")


def test_a_ledger_of_other_rows(site, used, tmp_path):
    """One that was charged for other tasks: what left is not in it."""
    other = Site(tmp_path, dp_ready=True, policy__privacy=PRIVATE, **SHUT)
    shared = {name: its + 1 for name, its in other.shared.items()}
    for number in (1, 2):
        assert isinstance(other.ask(other.task(number, shared=shared)), Update)
    put_back(site, other.home.path, LEDGER)
    lost(site, "round 1 of 's' left as private, but was charged for another task")


def test_a_deleted_record_beside_a_deleted_ledger(site):
    remove(site, LEDGER, RECORD)
    lost(site, "is approved, and the record does not say so")


def test_a_deleted_record_and_ledger_of_which_only_the_state_is_left(site):
    """Whoever approves anew: what is kept of the study still shows that there was one."""
    remove(site, LEDGER, RECORD, "approved.json")
    approve_anew(site)
    lost(site, "state/s is kept, and the record knows no such study")


@pytest.mark.parametrize("sealed", [False, True])
def test_an_older_copy_of_ledger_and_record_beside_newer_state(site, used, sealed):
    if sealed:  # what of a state can be read without its key is enough
        (site.home.state / "s").glob("*.safetensors").__next__().write_bytes(b"sealed")
    put_back(site, used[1] / "after 1", LEDGER, RECORD)
    lost(site, "state/s: round 2 was answered in private, and the ledger has no charge for it")


def test_what_is_put_right_goes_on(site, used):
    remove(site, LEDGER)
    lost(site, "was never charged")
    put_back(site, used[1] / "after 2", LEDGER)
    assert isinstance(again(site).ask(site.task(3)), Update)


def test_nothing_private_leaves_without_a_charge_whatever_else_is_right(site, monkeypatch):
    """The last look, should a round ever be computed without one."""
    monkeypatch.setattr("fedtl.training.trainer.once", lambda guarantee, silo, task, compute: compute(True))
    site.refused(site.task(3), Code.DECLINED, "would leave as private, and the ledger has no charge for it")


def test_what_cannot_be_seen(site):
    """All files that remember, deleted together: the last hash, noted down elsewhere, is what shows it."""
    remove(site, LEDGER, RECORD, "approved.json", "state")
    approve_anew(site)
    assert gaps(site.home) == []
