"""After the last round a site says in one word whether joining helped: where policy, plan and signature allow it, once a study."""

from dataclasses import replace

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from fedtl.cli.main import app
from fedtl.deployment.coordinator.bundle import build_bundle
from fedtl.deployment.plan import make_agreement
from fedtl.deployment.site.adopt_model import adopt_model
from fedtl.deployment.site.answer_verdict import answer_verdict
from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.federation.policy import Code
from fedtl.messages import Refusal, SiloVerdict, Update, verdict_question
from fedtl.results.comparison import Verdict
from tests.deployment.site.sites import PRIVATE, SETTINGS, Site
from tests.experiments import ROUNDS_ONLY
from tests.real_processes import Federation

pytestmark = pytest.mark.slow
ASKS = ["request.verdict=true", *ROUNDS_ONLY]


def question(site, study="s", **changes):
    return replace(verdict_question(study, 4, 0, site.shared), **changes)


def ask(site, task):
    return answer_verdict(Home.open(site.home.path), lambda: site.file, lambda: task)


def refused(site, task, code, reason):
    assert ask(site, task) == Refusal("plain", task.round, code)
    assert reason in site.lines()[-1]["reason"]


@pytest.fixture
def site(tmp_path):
    """One that allows a verdict, and has answered a round."""
    its = Site(tmp_path, ASKS, policy__verdict=True)
    assert isinstance(its.ask(its.task()), Update)
    return its


@pytest.fixture
def quick(monkeypatch):
    """Nothing is trained to find the verdict."""
    monkeypatch.setattr("fedtl.deployment.site.answer_verdict._verdict", lambda *_: Verdict.LOSES)


def test_the_verdict_is_that_of_adopt_and_recorded_before_it_leaves(site, tmp_path):
    answer = ask(site, question(site))
    line = site.lines()[-1]
    assert (line["what"], line["study"], line["verdict"]) == ("verdict", "s", str(answer.verdict))
    assert line["terms"]["verdict"] is True
    assert uncovered_lines(parse_lines(site.lines())) == []
    made = build_bundle(tmp_path / "bundles", "digits", load_experiment("digits", [*SETTINGS, *ASKS]))
    save_file(site.shared, tmp_path / "shared.safetensors")
    adopted = adopt_model(site.home, made.file, tmp_path / "shared.safetensors", "s", tmp_path / "model")
    assert answer == SiloVerdict("plain", adopted.joining.gain.verdict)
    facts = set(line) - {"chain", "number", "at"}
    assert facts == {*("what", "study", "round", "task", "plan", "manifest", "again", "terms", "verdict")}


def test_the_question_is_not_shown_as_a_round(site, quick):
    ask(site, question(site))
    received, verdict = site.lines()[-2:]
    assert (received["what"], received["asked"]) == ("received", "verdict")
    assert [line["round"] for line in site.lines() if line["what"] == "received" and "asked" not in line] == [
        1
    ]
    shown = CliRunner().invoke(app, ["silo", "ledger", str(site.home.path)]).output.splitlines()[-2:]
    assert "asks whether joining helped" in shown[0]
    assert verdict["verdict"] in shown[1]
    assert not [line for line in shown if f"s {verdict['round']}" in line]


def test_one_word_leaves_a_study_whatever_is_asked(site, quick, monkeypatch):
    first = ask(site, question(site))
    monkeypatch.setattr("fedtl.deployment.site.answer_verdict._verdict", lambda *_: pytest.fail("again"))
    assert ask(site, question(site)) == first
    assert site.lines()[-1]["again"] is True
    moved = {name: tensor + 1 for name, tensor in site.shared.items()}
    refused(site, question(site, shared=moved), Code.ROUND, "for another task")
    site.refused(site.task(2), Code.ROUND, "is over")
    assert uncovered_lines(parse_lines(site.lines())) == []


def test_other_questions_are_refused(site):
    refused(site, question(site, round=3), Code.ROUND, "not after round 2")
    refused(site, question(site, "other"), Code.ROUND, "sent no update")
    refused(site, question(site, seed=1), Code.PLAN, "seed 1")
    refused(site, question(site, shared={}), Code.TENSORS, "the task has no")


@pytest.mark.parametrize(
    ("plan", "policy"), [(ASKS, {}), (ROUNDS_ONLY, {"policy__verdict": True})], ids=["policy", "plan"]
)
def test_without_the_policys_or_the_plans_consent_none_leaves(plan, policy, tmp_path):
    site = Site(tmp_path, plan, **policy)
    assert isinstance(site.ask(site.task()), Update)
    assert site.terms_signed().verdict is False
    refused(site, question(site), Code.DECLINED, "policy.verdict = true, request.verdict = true")


def test_a_policy_that_allows_it_after_the_signature_is_looser(tmp_path):
    site = Site(tmp_path, ASKS)
    assert isinstance(site.ask(site.task()), Update)
    Federation.change(site.home.path / "silo.toml", policy__verdict=True)
    refused(site, question(site), Code.DECLINED, "was not signed")
    site.refused(site.task(2), Code.PLAN, "policy.verdict: signed false, now true")


def test_with_privacy_none_is_asked_for_and_none_leaves(tmp_path):
    with pytest.raises(ConfigError, match=r"request.verdict and \[privacy\]"):
        make_agreement(load_experiment("digits", [*ASKS, "privacy.epsilon=8"]), (1, 8, 8), (), "", True)
    site = Site(tmp_path, ASKS, dp_ready=True, policy__verdict=True)
    site.ask(site.task())
    private = {"policy__privacy": PRIVATE, "policy__share_row_count": False, "policy__metrics": []}
    Federation.change(site.home.path / "silo.toml", **private)
    refused(site, question(site), Code.PLAN, "policy.verdict = true and [policy.privacy]")
    Federation.change(site.home.path / "silo.toml", policy__verdict=False)
    refused(site, question(site), Code.DECLINED, "no privacy")


def test_a_verdict_of_rounds_with_privacy_does_not_leave(site, monkeypatch):
    """Also where silo.toml has no [policy.privacy] any more and a steward signed that."""
    load = type(site.home.states).load
    monkeypatch.setattr(type(site.home.states), "load", lambda *words: replace(load(*words), private=True))
    refused(site, question(site), Code.DECLINED, "without differential privacy")


def test_a_line_that_was_not_allowed_is_found(site, quick):
    ask(site, question(site))
    lines = site.lines()
    other = next(str(word) for word in Verdict if word != lines[-1]["verdict"])
    assert uncovered_lines(parse_lines([*lines, {**lines[-1], "verdict": other}]))[0].endswith(
        "had left before"
    )
    assert uncovered_lines(parse_lines([*lines, {**lines[-1], "study": "t"}]))[0].endswith(
        "under the approval"
    )
    terms = {**lines[-1]["terms"], "norm": 2000.0}
    assert "max_update_norm" in uncovered_lines(parse_lines([*lines, {**lines[-1], "terms": terms}]))[0]
    late = uncovered_lines(parse_lines([*lines, {**lines[-1], "at": "3000-01-01"}]))
    assert late[0].endswith("had ended on 2999-12-31")
