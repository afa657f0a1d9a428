"""A value looser than signed is refused and recorded; a stricter one is accepted."""

import tomllib

import pytest

from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.settings import (
    RENAMED_KEYS,
    BudgetSettings,
    HomeSettings,
    PolicySettings,
    SiteDataSettings,
)
from fedtl.deployment.site.signed import Bound, DataTerms, PrivacyTerms, SignedTerms, looser
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.deployment.site.verification import verify_home
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.approvals.approved import SHUT, THREE
from tests.deployment.site.sites import Site
from tests.deployment.site.test_home import OLD_KEYS, with_old_keys
from tests.real_processes import Federation


def changed(site, **values):
    Federation.change(site.home.path / "silo.toml", **values)
    return site


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
    assert ": looser than approved;" in site.lines()[-1]["reason"]
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
    {"policy__max_update_norm": 999.0},
    {"policy__roles": ["body", "norm"]},
    {"threads": 2},
]
MORE_STRICTER = [  # each trains a round, by the same comparison of values
    privacy(clip=0.5),
    privacy(sample_rate=0.1),
    privacy(steps=4),
    privacy(rounds=3),
    privacy(lifetime_epsilon=5.0),
    {"policy__max_bytes_per_round": 1_000_000},
    {"device": "cpu"},
]


@pytest.mark.parametrize(
    "values",
    [*STRICTER, *(pytest.param(values, marks=pytest.mark.nightly) for values in MORE_STRICTER)],
    ids=str,
)
def test_a_stricter_value_is_accepted_and_recorded(site, values):
    assert isinstance(changed(site, **values).ask(site.task()), Update), site.lines()[-1]
    assert uncovered_lines(parse_lines(site.lines())) == []
    assert looser(site.terms_signed(), SignedTerms.model_validate(site.lines()[-1]["terms"])) == []


def test_privacy_may_be_added_to_an_open_approval(bare):
    changed(bare, policy__privacy=THREE)
    assert isinstance(bare.ask(bare.task()), Update), bare.lines()[-1]
    assert bare.lines()[-1]["private"] is True
    assert uncovered_lines(parse_lines(bare.lines())) == []


def test_every_setting_is_signed_or_listed_as_harmless():
    for model in (SignedTerms, PrivacyTerms):
        for name, each in model.model_fields.items():
            assert sum(isinstance(mark, Bound) for mark in each.metadata) == 1, name
    # Terms keep the names of fedtl 0.1.0, so that the hash of what was signed then stays the same.
    data, policy = (set(RENAMED_KEYS[table].values()) for table in ("data", "policy"))
    signed_data = set(DataTerms.model_fields) - {"scale_file"}
    by_records = {"unlabelled"}  # without labels the signed number of records is 0, so to use them is looser
    assert signed_data - RENAMED_KEYS["data"].keys() == set(SiteDataSettings.model_fields) - data - by_records
    assert signed_data >= RENAMED_KEYS["data"].keys()
    assert set(PrivacyTerms.model_fields) == set(BudgetSettings.model_fields)
    lists = {"methods", "models", "wire"}  # which of them the plan uses is signed
    assert set(PolicySettings.model_fields) - lists - policy <= set(SignedTerms.model_fields)
    assert RENAMED_KEYS["policy"].keys() <= set(SignedTerms.model_fields)
    harmless = {
        "certificate",
        "device",
        "threads",
        "heartbeat",
        "port",
        "weights",
        "public",
        "model_folder",  # the hashes of its files are in the plan
        "key_file",
        "hours",
    }
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
    assert uncovered_lines(parse_lines(bare.lines())) == []


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
