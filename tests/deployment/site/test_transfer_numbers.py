"""What transfers, as numbers that leave with the last update: where plan and policy say so, within limits, and once."""

from dataclasses import replace

import pytest

from fedtl.deployment.coordinator.bundle import build_bundle
from fedtl.deployment.site import transfer_numbers as at_site
from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.rehearse import rehearse
from fedtl.deployment.site.site_plan import SitePlan, sent_numbers
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.errors import ConfigError, Denied
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.schema import RequestSettings
from fedtl.experiment.transfer import numbers
from fedtl.experiment.transfer.numbers import from_numbers, to_numbers, transfer_limits
from fedtl.federation.policy import Code, check_update
from fedtl.results.metrics import Measured
from fedtl.results.transferability import Begin, SiloTransfer, StageMeasures, Training
from fedtl.training.at_home import own_model
from tests.deployment.site.sites import PRIVATE, SETTINGS, Site, same
from tests.experiments import ROUNDS_ONLY
from tests.real_processes import Federation

pytestmark = pytest.mark.slow
ASKS = ["request.transferability=true", "model.name=mlp", "model.settings.width=4", *ROUNDS_ONLY]
ROWS = {"data__source": "digits", "data__path": ""}
ALLOWED = {"policy__metrics": ["accuracy", "transferability"], "policy__models": ["mlp"]}


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A site that allows it, and its replies to the first and to the last round."""
    site = Site(tmp_path_factory.mktemp("site"), ASKS, **ALLOWED)
    return site, site.ask(site.task(1)), site.ask(site.task(4))


def numbers_of(update):
    return {name: value for name, value in update.metrics.items() if "/" in name}


def test_they_leave_with_the_last_update_alone_and_within_their_limits(answered):
    site, first, last = answered
    limits = sent_numbers(site.plan)
    assert len(limits) == (2 + 4 * 2) * 2 + 2 * 4
    assert numbers_of(first) == {}
    sent = numbers_of(last)
    undefined = {name for name in limits if name.endswith("h_score")}  # fewer rows than features
    assert limits.keys() - undefined <= sent.keys() <= limits.keys()
    assert all(limits[name][0] <= value <= limits[name][1] for name, value in sent.items())
    line = site.lines()[-1]
    assert (line["what"], line["metrics"]) == ("sent", dict(last.metrics))
    assert line["terms"]["metrics"] == ["accuracy", "transferability"]
    assert uncovered_lines(parse_lines(site.lines())) == []
    assert site.ask(site.task(4)).metrics == last.metrics


def test_the_silos_own_model_is_judged_by_its_validation_rows(answered):
    site, _, last = answered
    study = site.study()
    silo = site.silo(study)
    val = silo.data.val
    state = own_model(study.trainer, silo, site.task(4))
    right = (study.trainer.scores(state, val.x, silo.data).argmax(1) == val.y).double().mean()
    assert last.metrics["transferability/own/0/score"] == pytest.approx(float(right), abs=5e-4)


def test_without_the_policys_consent_none_leaves_none_is_computed_and_the_update_is_the_same(
    answered, tmp_path, monkeypatch
):
    site, first, last = answered
    monkeypatch.setattr(at_site, "transplants", lambda *_: pytest.fail("it trained"))
    other = Site(tmp_path, ASKS, **{**ALLOWED, "policy__metrics": ["accuracy"]})
    (other.home.path / "secret").write_bytes((site.home.path / "secret").read_bytes())
    assert same(other.ask(other.task(1)).delta, first.delta)
    again = other.ask(other.task(4))
    assert same(again.delta, last.delta)
    assert again.metrics == {name: last.metrics[name] for name in ("accuracy",)}
    Federation.change(other.home.path / "silo.toml", **ALLOWED)
    other.refused(other.task(4), Code.PLAN, "policy.metrics: signed accuracy, now accuracy, transferability")


def test_a_plan_that_does_not_ask_gets_none(answered):
    site, *_ = answered
    experiment = site.plan.agreement.experiment.model_copy(update={"request": RequestSettings()})
    plan = SitePlan(site.home, site.plan.agreement.model_copy(update={"experiment": experiment}))
    assert sent_numbers(plan) == {}


def test_with_privacy_none_leaves_and_no_plan_asks(answered, tmp_path):
    with pytest.raises(ConfigError, match="not charged"):
        build_bundle(tmp_path, "x", load_experiment("digits", [*SETTINGS, *ASKS, "privacy.epsilon=8"]))
    site, *_ = answered
    Home.create(tmp_path / "home", "plain", "localhost:1")
    agreement = site.plan.agreement.model_copy(update={"dp_ready": True})
    for private in (None, PRIVATE):
        Federation.change(tmp_path / "home" / "silo.toml", **ALLOWED, policy__privacy=private, **ROWS)
        assert bool(sent_numbers(SitePlan(Home.open(tmp_path / "home"), agreement))) is (private is None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"transferability/own/0/score": 1.001}, "limits are 0 and 1"),
        ({"transferability/own/0/labels": 0.5}, "must not leave in round"),
        ({"accuracy/7": 0.5}, "does not allow 'accuracy/7'"),
    ],
)
def test_no_other_number_leaves_under_the_word(answered, changes, says):
    site, _, last = answered
    update = replace(last, metrics={**last.metrics, **changes})
    with pytest.raises(Denied, match=says):
        check_update(update, site.task(4), site.plan.terms, site.plan.policy, None, "plain")


def test_numbers_of_an_earlier_round_do_not_leave(answered):
    site, first, last = answered
    update = replace(first, metrics=last.metrics)
    with pytest.raises(Denied, match="in round 1"):
        check_update(update, site.task(1), site.plan.terms, site.plan.policy, None, "plain")


def test_the_page_that_is_signed_lists_every_number_and_its_limits(answered, tmp_path):
    site, *_ = answered
    made = build_bundle(tmp_path, "digits", load_experiment("digits", [*SETTINGS, *ASKS]))
    facts, page = rehearse(site.home, made.file)
    assert facts.refused == ""
    assert facts.plan.numbers == sent_numbers(site.plan)
    text = " ".join(page.read_text().split())
    assert "these 28 leave once, in round 4" in text
    _, _, listed = text.partition("each within its limits: ")
    listed, _, _ = listed.partition(" hash of the plan")
    found = {}
    for group in listed.split("; "):
        limits, names = group.split(": ")
        low, high = map(float, limits.split(" to "))
        found |= dict.fromkeys(names.split(", "), (low, high))
    assert found == dict(sent_numbers(site.plan))
    assert "With the last round 28 numbers" in text
    assert facts.plan.metrics == ["accuracy"]


def test_more_numbers_than_a_message_holds_are_refused_at_the_coordinator(tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "MAX_NUMBERS", 27)
    with pytest.raises(ConfigError, match="would send 28 numbers"):
        build_bundle(tmp_path, "x", load_experiment("digits", [*SETTINGS, *ASKS]))


def result(loss, score, cka):
    trainings = [Training(Begin.OWN, 0, loss, Measured({"r2": score}))]
    return SiloTransfer("a", 0, tuple(trainings), (StageMeasures(cka=cka, logme=-1.23456),))


def test_values_are_rounded_and_set_to_their_limits():
    limits = transfer_limits(1, False, "r2")
    sent = to_numbers(result(45.0, -7.0, 0.98765), "r2", limits)
    assert sent == {
        "transferability/own/0/loss": 20.0,
        "transferability/own/0/score": -1.0,
        "transferability/stage/1/cka": 0.988,
        "transferability/stage/1/logme": -1.235,
    }
    assert to_numbers(result(float("nan"), float("inf"), None), "r2", limits).keys() == {
        "transferability/stage/1/logme"
    }
    assert not any(name.endswith("/score") for name in transfer_limits(1, False, "rmse"))  # no upper limit


def test_what_a_site_sends_beyond_its_limits_or_without_a_meaning_is_left_out():
    good = {"transferability/own/0/loss": 0.5, "transferability/stage/1/cka": 1.0, "accuracy": 0.3}
    bad = {
        "transferability/new/0/loss": -1.0,
        "transferability/stage/1/cka_new": 1e300,
        "transferability/x": 1.0,
    }
    found = from_numbers("a", 0, good | bad, "accuracy", 1, False)
    losses = {one.begin: one.loss for one in found.trainings}
    assert losses == {**dict.fromkeys(("new", "AnB", "AnB+", "BnB", "BnB+")), "own": 0.5}
    assert found.measures == (StageMeasures(cka=1.0),)
    assert to_numbers(found, "accuracy", transfer_limits(1, False, "accuracy")) == {
        name: value for name, value in good.items() if "/" in name
    }
