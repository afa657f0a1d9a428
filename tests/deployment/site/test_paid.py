"""With a deleted or older ledger or record no private round is charged, and every command says so."""

import shutil

import pytest

from fedtl.deployment.site.home import Home
from fedtl.deployment.site.paid import missing_entries
from fedtl.deployment.site.readiness import check_readiness
from fedtl.deployment.site.status import site_status
from fedtl.deployment.site.verification import export_lines, verify_export, verify_home
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.sites import PRIVATE, Site
from tests.real_processes import fedtl_command

SHUT = {"policy__metrics": [], "policy__share_row_count": False}
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
    """The site as it was after the second round, whatever an earlier test did to it."""
    site, folder = used
    put_back(site, folder / "after 2", "*")
    assert missing_entries(site.home, site.home.record.lines()) == []
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
    """Assert that no round of this study or another is charged or answered, and that each command says why."""
    site = again(site)
    before = site.home.ledger.read_bytes() if site.home.ledger.exists() else None
    for task in (site.task(2), site.task(3), site.task(1, study="fresh")):
        site.refused(task, Code.DECLINED, words)
        assert "restore ledger.sqlite" in site.lines()[-1]["reason"]
        assert "\n" not in site.lines()[-1]["reason"]
    assert (site.home.ledger.read_bytes() if site.home.ledger.exists() else None) == before
    assert words in ledger_check(site).text
    assert not ledger_check(site).ok
    assert any(words in text for text in site_status(site.home).gaps)
    assert any(words in f"record {text}" or words in text for text in verify_home(site.home).unpaid)


def ledger_check(site):
    """What ``fedtl silo check`` says about the ledger."""
    return next(check for check in check_readiness(site.home) if check.name == "ledger")


def approve_anew(site):
    again(site)
    site.approve()


def again(site):
    site.home = Home.open(site.home.path)
    return site


def test_a_complete_ledger_is_accepted(site):
    assert isinstance(site.ask(site.task(2)), Update)
    assert isinstance(site.ask(site.task(3)), Update)
    site.approve()
    assert isinstance(site.ask(site.task(1, study="fresh")), Update)
    assert site_status(site.home).gaps == []
    assert verify_home(site.home).unpaid == []
    assert ledger_check(site).ok


def test_a_deleted_ledger(site):
    remove(site, LEDGER)
    lost(
        site,
        "was never charged",
    )
    said = fedtl_command("silo", "verify", site.home.path, code=3).stderr
    assert "NOT CHARGED: line" in said
    assert "MISSING" in fedtl_command("silo", "status", site.home.path).stdout
    export_lines(site.home, site.home.path.parent / "papers.jsonl")
    assert "was never charged" in verify_export(site.home.path.parent / "papers.jsonl").unpaid[0]


def test_a_deleted_ledger_whose_tip_is_left(site):
    remove(site, "ledger.sqlite")
    site = again(site)
    for task in (site.task(3), site.task(1, study="fresh")):
        site.refused(task, Code.DECLINED, "plain has 0 lines")
    assert "plain has 0 lines" in ledger_check(site).text


def test_an_older_ledger_with_its_tip(site, used):
    put_back(site, used[1] / "after 1", LEDGER)
    lost(site, "round 2 of 's'")


def test_a_ledger_of_other_rows(site, used, tmp_path):
    """The ledger has charges for other tasks than those that were answered."""
    other = Site(tmp_path, dp_ready=True, policy__privacy=PRIVATE, **SHUT)
    shared = {name: its + 1 for name, its in other.shared.items()}
    for number in (1, 2):
        assert isinstance(other.ask(other.task(number, shared=shared)), Update)
    put_back(site, other.home.path, LEDGER)
    lost(site, "for another task")


def test_a_deleted_record_beside_a_deleted_ledger(site):
    remove(site, LEDGER, RECORD)
    lost(site, "the record does not")


def test_a_deleted_record_and_ledger_beside_stored_state(site):
    """Also after a new approval: the stored state shows that there was a study."""
    remove(site, LEDGER, RECORD, "approved.json")
    approve_anew(site)
    lost(site, "state/s exists")


@pytest.mark.parametrize("sealed", [False, True])
def test_an_older_copy_of_ledger_and_record_beside_newer_state(site, used, sealed):
    if sealed:  # what of a state can be read without its key is enough
        (site.home.state / "s").glob("*.safetensors").__next__().write_bytes(b"sealed")
    put_back(site, used[1] / "after 1", LEDGER, RECORD)
    lost(site, "state/s: round 2")


def test_a_restored_ledger_is_accepted(site, used):
    remove(site, LEDGER)
    lost(site, "was never charged")
    put_back(site, used[1] / "after 2", LEDGER)
    assert isinstance(again(site).ask(site.task(3)), Update)


def test_a_private_reply_without_a_charge_never_leaves(site, monkeypatch):
    """The last check, in case a round is ever computed without a charge."""
    monkeypatch.setattr(
        "fedtl.training.trainer.charged_round",
        lambda guarantee, silo, task, compute: compute(guarantee.releases.in_round(True)),
    )
    site.refused(site.task(3), Code.DECLINED, "must not leave")


def test_deleting_every_file_together_is_not_detected(site):
    """Only a last hash that was kept elsewhere shows it."""
    remove(site, LEDGER, RECORD, "approved.json", "state")
    approve_anew(site)
    assert missing_entries(site.home, site.home.record.lines()) == []
