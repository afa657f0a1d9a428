"""An approval covers what the signed page showed, for a number of studies and until a day; anything looser is refused and recorded."""

import json
import shutil
import tomllib
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from fedtl.deployment.site import covered
from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.egress_log import verify_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.readiness import check_readiness
from fedtl.deployment.site.settings import (
    RENAMED_KEYS,
    BudgetSettings,
    HomeSettings,
    PolicySettings,
    SiteDataSettings,
)
from fedtl.deployment.site.signed import Bound, DataTerms, PrivacyTerms, SignedTerms, looser
from fedtl.deployment.site.status import site_status
from fedtl.deployment.site.supernode import refusal_reason
from fedtl.deployment.site.verification import verify_home
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.raw_record import note
from tests.deployment.site.test_answer_round import PRIVATE, Site
from tests.deployment.site.test_home import OLD_KEYS, with_old_keys
from tests.deployment.site.test_run import packed
from tests.real_processes import Federation, fedtl_command

THREE = {**PRIVATE, "epsilon": 3.0, "sample_rate": 0.2, "steps": 5, "rounds": 4}
SHUT = {"policy__metrics": [], "policy__share_row_count": False}


@pytest.fixture(scope="module")
def approved(tmp_path_factory):
    """A private site and an open one, each with an approval for one study. Tests copy them."""
    folder = tmp_path_factory.mktemp("approved")
    for name in ("private", "open"):
        (folder / name).mkdir()
    private = Site(folder / "private", dp_ready=True, policy__privacy=THREE, **SHUT)
    return {"private": private, "open": Site(folder / "open", dp_ready=True)}


@pytest.fixture
def site(approved, tmp_path):
    return copied(approved["private"], tmp_path)


@pytest.fixture
def bare(approved, tmp_path):
    """Approved without differential privacy, with accuracy and the number of rows."""
    return copied(approved["open"], tmp_path)


def copied(site, folder):
    shutil.copytree(site.home.path, folder / "home")
    shutil.copy2(site.file, folder / "plan.toml")
    made = object.__new__(Site)
    made.__dict__.update(site.__dict__, home=Home.open(folder / "home"), file=folder / "plan.toml")
    return made


def changed(site, **values):
    Federation.change(site.home.path / "silo.toml", **values)
    return site


def checked(site):
    """What ``fedtl silo check`` says about approvals."""
    return next(
        check.text for check in check_readiness(Home.open(site.home.path)) if check.name == "approvals"
    )


def privacy(**values):
    return {"policy__privacy": {**THREE, **values}}


LOOSER = [
    ("[policy.privacy]: signed epsilon 3, now none", {"policy__privacy": None}),
    ("policy.privacy.epsilon: signed 3, now 7", privacy(epsilon=7.0)),
    ("policy.privacy.delta: signed 1e-05, now 0.001", privacy(delta=1e-3)),
    ("policy.privacy.clip: signed 1, now 100", privacy(clip=100.0)),
    ("policy.privacy.lifetime_epsilon: signed 8, now 800", privacy(lifetime_epsilon=800.0)),
    ("policy.privacy.lifetime_delta: signed 0.0001, now 0.01", privacy(lifetime_delta=1e-2)),
    ("policy.privacy.sample_rate: signed 0.2, now 0.9", privacy(sample_rate=0.9)),
    ("policy.privacy.steps: signed 5, now 6", privacy(steps=6)),
    ("policy.privacy.statistics: signed public, now local-after", privacy(statistics="local-after")),
    ("policy.roles: signed aux, body, norm, now aux, body, head, norm", {"policy__roles": ["body", "aux", "norm", "head"]}),
    ("policy.max_bytes_per_round: signed 50000000, now 60000000", {"policy__max_bytes_per_round": 60_000_000}),
    ("policy.max_update_norm: signed 1000, now 1001", {"policy__max_update_norm": 1001.0}),
    ("policy.minimum_silos: signed 2, now 1", {"policy__minimum_silos": 1}),
    ("server: signed localhost:1, now localhost:2", {"server": "localhost:2"}),
    ("data.name: signed plain, now other", {"data__name": "other"}),
    ("data.label: signed label, now other", {"data__label": "other"}),
    ("data.split_seed: signed 0, now 1", {"data__split_seed": 1}),
    ("data.val: signed 0.1, now 0.2", {"data__val": 0.2}),
    ("data.test: signed 0.2, now 0.1", {"data__test": 0.1}),
    ("the number of records: signed 40, now 50; data.limit: signed 40, now 50", {"data__limit": 50}),
    ("data.silo: signed none, now faint", {"data__silo": "faint"}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "values"), LOOSER, ids=[line.split(":")[0] for line, _ in LOOSER])
def test_a_value_looser_than_signed_is_refused_and_named(site, line, values):
    changed(site, **values).refused(site.task(), Code.PLAN, line)
    assert site.lines()[-1]["reason"].endswith(": looser than approved; rehearse and approve again")
    assert not site.home.ledger.exists()
    assert not (site.home.path / "state").exists()


def test_a_study_is_refused_when_the_signed_privacy_is_removed(site):
    """Also where exact accuracy and the number of rows are allowed instead."""
    assert isinstance(site.ask(site.task()), Update)
    changed(site, policy__privacy=None, policy__metrics=["accuracy"], policy__share_row_count=True)
    site.refused(site.task(2), Code.PLAN, "[policy.privacy]: signed epsilon 3, now none")
    assert verify_home(Home.open(site.home.path)).outside == []
    line = next(each for each in site.lines() if each["what"] == "sent")
    assert (line["private"], line["terms"]["privacy"]["epsilon"]) == (True, 3.0)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("policy.metrics: signed accuracy, now accuracy, auc", {"policy__metrics": ["accuracy", "auc"]}),
        ("the number of records: signed 40, now 60", {"data__limit": 60}),
    ],
)
def test_looser_values_are_refused_without_privacy_too(bare, line, values):
    changed(bare, **values).refused(bare.task(), Code.PLAN, line)


def test_metrics_and_the_row_count_are_signed(approved, tmp_path):
    (tmp_path / "shut").mkdir()
    shut = Site(tmp_path / "shut", **SHUT)
    changed(shut, policy__share_row_count=True).refused(
        shut.task(), Code.PLAN, "policy.share_row_count: signed false, now true"
    )
    changed(shut, policy__share_row_count=False, policy__metrics=["accuracy"])
    shut.refused(shut.task(), Code.PLAN, "policy.metrics: signed none, now accuracy")


STRICTER = [
    privacy(epsilon=1.0),
    privacy(clip=0.5),
    privacy(sample_rate=0.1),
    privacy(steps=4),
    privacy(rounds=3),
    privacy(lifetime_epsilon=5.0),
    {"policy__max_update_norm": 999.0},
    {"policy__roles": ["body", "norm"]},
    {"policy__max_bytes_per_round": 1_000_000},
    {"threads": 2},
    {"device": "cpu"},
]


@pytest.mark.parametrize("values", STRICTER, ids=str)
def test_a_stricter_value_is_accepted_and_recorded(site, values):
    assert isinstance(changed(site, **values).ask(site.task()), Update), site.lines()[-1]
    assert covered.uncovered_lines(parse_lines(site.lines())) == []
    assert looser(site.terms_signed(), SignedTerms.model_validate(site.lines()[-1]["terms"])) == []


def test_privacy_may_be_added_to_an_open_approval(bare):
    changed(bare, policy__privacy=THREE)
    assert isinstance(bare.ask(bare.task()), Update), bare.lines()[-1]
    assert bare.lines()[-1]["private"] is True
    assert covered.uncovered_lines(parse_lines(bare.lines())) == []


def test_every_setting_is_signed_or_listed_as_harmless():
    for model in (SignedTerms, PrivacyTerms):
        for name, each in model.model_fields.items():
            assert sum(isinstance(mark, Bound) for mark in each.metadata) == 1, name
    # Terms keep the names of fedtl 0.1.0, so that the hash of what was signed then stays the same.
    data, policy = (set(RENAMED_KEYS[table].values()) for table in ("data", "policy"))
    signed_data = set(DataTerms.model_fields) - {"scale_file"}
    assert signed_data - RENAMED_KEYS["data"].keys() == set(SiteDataSettings.model_fields) - data
    assert signed_data >= RENAMED_KEYS["data"].keys()
    assert set(PrivacyTerms.model_fields) == set(BudgetSettings.model_fields)
    lists = {"methods", "models"}  # which of them the plan uses is signed
    assert set(PolicySettings.model_fields) - lists - policy <= set(SignedTerms.model_fields)
    assert RENAMED_KEYS["policy"].keys() <= set(SignedTerms.model_fields)
    harmless = {"certificate", "device", "threads", "heartbeat", "port", "weights", "key_file"}
    assert set(HomeSettings.model_fields) == harmless | {"name", "server", "data", "policy"}


SIGNED_BY_0_1_0 = {
    **{
        "privacy": None,
        "site": "clinic",
        "server": "fl.example.org:8443",
        "plan": "a" * 64,
        "manifest": "b" * 64,
    },
    **{
        "asked_by": "",
        "purpose": "",
        "method": "fedtl",
        "model": "mlp",
        "rounds": 4,
        "silos": 3,
        "studies": 1,
    },
    **{
        "until": "2999-12-31",
        "roles": ["body"],
        "metrics": [],
        "bytes": 50_000_000,
        "norm": 1000.0,
        "rows": False,
    },
    **{"minimum_silos": 3, "columns": ["a (number)"], "classes": ["0", "1"], "records": 40},
    "data": {
        **{
            "name": "clinic",
            "source": "table",
            "path": "data",
            "silo": "",
            "label": "label",
            "silo_column": "",
        },
        **{
            "domain_column": "",
            "target_domain": "",
            "classes": [],
            "bounds": {},
            "scale": "silo",
            "scale_file": "",
        },
        **{"split": 0, "val": 0.1, "test": 0.2, "limit": 0},
    },
}


def test_terms_that_were_signed_before_keys_were_renamed_keep_their_hash():
    """The hash is the one that fedtl 0.1.0 computed before the keys of silo.toml were renamed."""
    expected = "59e092899b7a7b8f2ed6c125e3d1ff7c5a93c4168e47a12260c0a38c52195681"
    assert SignedTerms.model_validate(SIGNED_BY_0_1_0).hash == expected


def test_an_approval_stays_valid_when_keys_of_silo_toml_are_renamed(bare):
    path = bare.home.path / "silo.toml"
    new = path.read_text()
    table = tomllib.loads(new)
    with_old_keys(path, [(*key[:3], table[key[0]][key[2]]) for key in OLD_KEYS])
    bare.approve()
    assert isinstance(bare.ask(bare.task(1)), Update)
    path.write_text(new)
    assert isinstance(bare.ask(bare.task(2)), Update), bare.lines()[-1]
    assert covered.uncovered_lines(parse_lines(bare.lines())) == []


@pytest.mark.parametrize("name", sorted(SignedTerms.model_fields.keys() - {"data", "privacy"}))
def test_a_different_value_is_looser_in_at_least_one_direction(site, name):
    """No comparison accepts everything."""
    before = site.terms_signed()
    value = getattr(before, name)
    others = {
        bool: lambda: [not value],
        int: lambda: [value + 1, value - 1],
        float: lambda: [value + 1, value - 1],
        list: lambda: [[*value, "more"]],
        str: lambda: [f"{value}0", f"0{value}"],
    }[type(value)]()
    now = [before.model_copy(update={name: other}) for other in others]
    assert any(looser(before, each) or looser(each, before) for each in now)


def test_a_unit_may_become_stricter_and_never_looser():
    def one(unit):
        values = dict.fromkeys(PrivacyTerms.model_fields, 1.0)
        return PrivacyTerms(**values | {"unit": unit, "steps": 1, "rounds": 1, "statistics": "public"})

    assert looser(one("record"), one("patient")) == []
    assert [each.key for each in looser(one("patient"), one("record"))] == ["policy.privacy.unit"]
    assert [each.key for each in looser(one("patient"), one("visit"))] == ["policy.privacy.unit"]


# One approval, one study


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
    assert covered.uncovered_lines(parse_lines(bare.lines())) == []


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


# What counts as an approval


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


# What the record shows


def noted(site, line, **changes):
    """Append a line to the record as a fedtl without checks would, and return the lines that are not covered."""
    kept = {key: value for key, value in line.items() if key not in ("chain", "number", "at", "what")}
    note(site.home, "sent", **{**kept, **changes})
    return covered.uncovered_lines(parse_lines(site.lines()))


def test_verify_reports_each_line_that_no_approval_covered(bare, tmp_path):
    bare.ask(bare.task())
    sent = bare.lines()[-1]
    cases = {
        "round 1 had been answered before": {},
        "the approval was for 1 study and was used for s": {"study": "t", "round": 1},
        "the approval was for 4 rounds": {"round": 5},
        "no approval of its plan was in force": {"plan": "f" * 64},
        "head.weight is not on the approved manifest": {
            "round": 6,
            "tensors": {"head.weight": next(iter(sent["tensors"].values()))},
        },
        "it carried the metric 'auc', which was not signed": {"round": 7, "metrics": {"auc": 0.5}},
        "it does not state the terms in force": {"round": 8, "terms": None},
        "policy.max_update_norm: signed 1000, now 2000": {
            "round": 9,
            "terms": {**sent["terms"], "norm": 2000.0},
        },
    }
    for at, (reason, changes) in enumerate(cases.items(), 1):
        found = noted(bare, sent, **changes)
        assert any(text.startswith(f"line {sent['number'] + at}:") and reason in text for text in found), (
            reason,
            found,
        )
    path = tmp_path / "record.jsonl"
    fedtl_command("silo", "ledger", bare.home.path, "--export", path)
    for where in (bare.home.path, path):
        said = fedtl_command("silo", "verify", where, code=3).stderr
        for reason in cases:
            assert reason in said
        assert "an approval covered" not in said
    assert (
        covered.uncovered_lines(
            parse_lines(verify_lines(path.read_text().partition("\n\n")[0].splitlines(), "x"))
        )
        == found
    )


def test_verify_reports_an_update_without_the_signed_privacy(site):
    site.ask(site.task())
    sent = site.lines()[-1]
    found = noted(site, sent, round=2, private=False, weight=40.0, terms={**sent["terms"], "privacy": None})
    assert [text.split(": ", 2)[2] for text in found] == [
        "it left without the differential privacy that was signed",
        "it carried the number of rows, which was not signed",
        "[policy.privacy]: signed epsilon 3, now none",
    ]


def test_verify_reports_an_update_after_the_approval_ended(bare):
    bare.approve(until=(datetime.now(UTC).date() - timedelta(days=1)).isoformat())
    bare.refused(bare.task(), Code.PLAN, "the approval ended on")
    terms = covered.record_history(parse_lines(bare.lines())).grants
    assert len(terms) == 1
    bare.approve()
    bare.ask(bare.task())
    sent = bare.lines()[-1]
    bare.approve(until=(datetime.now(UTC).date() - timedelta(days=1)).isoformat())
    assert "had ended on" in noted(bare, sent, round=2)[0]
    note(bare.home, "withdrawn", bundle="0" * 64)
    assert "no approval of" in noted(bare, sent, round=3)[-1]


def test_verify_reports_a_malformed_line(bare):
    note(bare.home, "sent", round=1)
    note(bare.home, "approved", plan="p", tensors=[7])
    note(bare.home, "withdrawn")
    found = covered.uncovered_lines(parse_lines(bare.lines()))
    assert [text.split(" (")[0] for text in found] == [
        f"line {number} is not a line of a record" for number in (2, 3, 4)
    ]


def test_terms_that_do_not_match_their_hash_approve_nothing(site):
    line = next(each for each in site.lines() if each["what"] == "approved")
    kept = {key: value for key, value in line.items() if key not in ("chain", "number", "at", "what")}
    kept["signed"]["privacy"]["epsilon"] = 90.0
    note(site.home, "approved", **kept)
    site.refused(site.task(), Code.PLAN, "an earlier fedtl")
