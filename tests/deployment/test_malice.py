"""
A server that wants more than was agreed, as real processes: the bundle is the approved one, what runs on the server's
machine is not. Everything is read from the files of the two sides.
"""

import json
from pathlib import Path

import pytest

from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.status import dataset_budget
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.experiment.config.load import load_experiment
from fedtl.federation.policy import MEANING, Code
from fedtl.privacy.hash_chain import HashChainFile
from tests.real_processes import ROOT, Federation

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
BUDGET = {"epsilon": 8.0, "lifetime_epsilon": 9.0, "clip": 1.0, "statistics": "public"}
ASKED = {  # what it asks, in order: the code that it is told, and what the steward reads; a round that was agreed: None
    "head": (Code.TENSORS, "'head.weight', which is not on the manifest"),
    "statistics": (Code.TENSORS, "running_mean', which is not on the manifest"),
    "larger body": (Code.TENSORS, "the manifest has"),
    "less noise, as a setting": (Code.TENSORS, "fields of Task"),
    "less noise, as a record": (Code.TENSORS, "3 records"),
    "less noise, by fewer rounds": (Code.PLAN, "plan has 3 rounds"),
    "round 1": None,
    "round 2": None,
    "round 3": None,
    "round 3 again": None,
    "another round 3": (Code.ROUND, "for another task"),
    "an older round": (Code.ROUND, "round 2 is over"),
    "more than the budget": (Code.DECLINED, "of 9 and"),
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The federation after the malicious server ran its script."""
    its = Federation(tmp_path_factory.mktemp("malice"))
    try:
        its.add("plain", data__limit=40, policy__minimum_silos=1, policy__privacy=BUDGET, policy__share_row_count=False, policy__metrics=[])  # fmt: skip
        settings = load_experiment("digits", ["rounds=3", "minimum_silos=1"])
        its.approve(its.bundle(settings, dp_ready=True), "plain", studies=2)
        its.up("plain", PYTHONPATH=f"{HERE / 'malicious'}:{ROOT}")
        its.start("digits", "first")
        its.result("first")
        yield its
    finally:
        its.close()


def told(federation):
    told = (federation.server / "studies" / "first" / "replies.jsonl").read_text()
    return {line["asked"]: line["told"] for line in map(json.loads, told.splitlines())}


def answered(federation):
    """The site's lines that answer a message."""
    return [line for line in federation.record("plain") if line["what"] in ("refused", "sent")]


def test_each_request_beyond_the_agreement_is_refused_with_a_code(asked):
    heard = told(asked)
    assert list(heard) == list(ASKED)
    for name, refused in ASKED.items():
        if refused:
            assert heard[name] == f"plain: {MEANING[refused[0]]} ({refused[0]})", name
        else:
            assert isinstance(heard[name], list), (name, heard[name])


def test_the_sites_record_has_the_reason_of_each_refusal(asked):
    lines = answered(asked)
    assert len(lines) == len(ASKED)
    for line, (name, refused) in zip(lines, ASKED.items(), strict=True):
        if refused:
            code, reason = refused
            assert (line["what"], line["code"]) == ("refused", code), name
            assert reason in line["reason"], (name, line["reason"])
        else:
            assert line["what"] == "sent", (name, line)
    assert [line["again"] for line in lines if line["what"] == "sent"] == [False, False, False, True]
    assert uncovered_lines(parse_lines(asked.record("plain"))) == []


def test_nothing_but_the_agreed_rounds_was_charged(asked):
    home = Home.open(asked.folder / "plain")
    with HashChainFile(home.ledger).read("plain") as chain:
        charged = [(line["study"], line["round"]) for line in chain.lines() if line["what"] == "charged"]
    assert charged == [("first", 1), ("first", 2), ("first", 3)]
    assert 0 < dataset_budget(home).spent <= 9.0


def test_the_server_does_not_learn_the_reasons(asked):
    asked.close()
    reasons = [line["reason"] for line in answered(asked) if line["what"] == "refused"]
    files = [path for path in asked.server.rglob("*") if path.is_file()] + [asked.folder / "server.log"]
    for path in files:
        content = path.read_bytes()
        assert not [reason for reason in reasons if reason.encode() in content], path
