"""An approval covers so many studies until a day, and only a list that its site wrote."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from fedtl.deployment.site import covered
from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.readiness import check_readiness
from fedtl.deployment.site.status import site_status
from fedtl.deployment.site.supernode import refusal_reason
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.test_run import packed
from tests.real_processes import fedtl_command


def checked(site):
    """What ``fedtl silo check`` says about approvals."""
    return next(
        check.text for check in check_readiness(Home.open(site.home.path)) if check.name == "approvals"
    )


def test_an_approval_covers_the_signed_number_of_studies(bare):
    """A server that asks for rounds of four studies gets those of the first."""
    given = [
        isinstance(bare.ask(bare.task(number, study=f"x{at}")), Update)
        for at in range(4)
        for number in (1, 2, 3, 4)
    ]
    assert given == [True] * 4 + [False] * 12
    reason = "study 'x3': the approval is for 1 study and was used for x0; rehearse and approve again"
    assert bare.lines()[-1]["reason"] == reason
    (told,) = site_status(Home.open(bare.home.path)).approved.values()
    assert told.endswith("begun: x0, round 4 of 4; used up")
    assert "is used up" in checked(bare)
    bare.approve(studies=2)
    assert [isinstance(bare.ask(bare.task(study=name)), Update) for name in ("y", "z", "w")] == [
        True,
        True,
        False,
    ]
    assert uncovered_lines(parse_lines(bare.lines())) == []


def test_a_study_uses_its_approval_before_its_first_round_is_computed(bare, monkeypatch):
    """Otherwise a round that is charged and then fails could use up budget in any number of studies."""
    with monkeypatch.context() as broken:
        broken.setattr("fedtl.training.trainer.Trainer.fit", lambda *_: (_ for _ in ()).throw(RuntimeError))
        bare.refused(bare.task(), Code.FAILED, "RuntimeError")
    bare.refused(bare.task(study="t"), Code.PLAN, "was used for s")
    assert isinstance(bare.ask(bare.task()), Update)


def test_rounds_come_in_order_and_none_twice(bare):
    """The site may not be asked for a round. It does not answer that round later."""
    assert isinstance(bare.ask(bare.task(1)), Update)
    assert isinstance(bare.ask(bare.task(4)), Update)
    for number in (2, 3):
        bare.refused(bare.task(number), Code.ROUND, f"round {number} is over")


def test_a_site_that_lost_its_state_answers_no_round_twice(bare):
    assert isinstance(bare.ask(bare.task(2)), Update)
    shutil.rmtree(bare.home.path / "state")
    bare.refused(bare.task(2), Code.ROUND, "state/")
    bare.refused(bare.task(1), Code.ROUND, "round 1 is over")
    assert isinstance(bare.ask(bare.task(3)), Update)


def test_an_approval_expires_also_when_the_clock_is_set_back(bare, monkeypatch):
    day = datetime.now(UTC).date()
    bare.approve(until=day.isoformat())
    assert isinstance(bare.ask(bare.task()), Update)

    class Later(datetime):
        ahead = timedelta(days=1)

        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + cls.ahead

    monkeypatch.setattr(covered, "datetime", Later)
    monkeypatch.setattr("fedtl.privacy.hash_chain.datetime", Later)
    bare.refused(bare.task(2), Code.PLAN, f"{day}, today is {day + Later.ahead}")
    Later.ahead = timedelta(days=-1)
    bare.refused(bare.task(2), Code.PLAN, f"{day}, today is {day + timedelta(days=1)}")
    (told,) = site_status(Home.open(bare.home.path)).approved.values()
    assert told.endswith("expired")


def test_an_edited_list_or_a_deleted_record_approves_nothing(site):
    rows = json.loads(site.home.approved.read_text())
    site.home.approved.write_text(json.dumps([{**rows[0], "terms": "f" * 64}]))
    site.refused(site.task(), Code.PLAN, "approved.json")
    site.home.approved.write_text(json.dumps([{**rows[0], "code": "f" * 64}]))
    site.refused(site.task(), Code.PLAN, "approved.json")
    site.home.approved.write_text(json.dumps(rows))
    for path in site.home.path.glob("record.sqlite*"):
        path.unlink()
    site.refused(site.task(), Code.DECLINED, "the record does not")


def test_an_old_list_does_not_restore_a_withdrawn_approval(site):
    old = site.home.approved.read_bytes()
    fedtl_command("silo", "approve", site.home.path, "0" * 64, "--withdraw")
    site.refused(site.task(), Code.PLAN, "is not approved")
    site.home.approved.write_bytes(old)
    site.refused(site.task(), Code.PLAN, "approved.json")


def test_an_approval_of_an_earlier_fedtl_is_refused_with_advice(site):
    (row,) = json.loads(site.home.approved.read_text())
    del row["terms"]
    content = packed(**{"server/app.py": ""})
    site.home.approved.write_text(json.dumps([{**row, "bundle": sha256(content).hexdigest()}]))
    way = "an earlier fedtl"
    site.refused(site.task(), Code.PLAN, way)
    assert way in refusal_reason(site.home, content)
    assert way in checked(site)
