"""The privacy values of a site: its own, or the approved plan's where it sets none; no message changes them."""

import json

import pytest
import tomli_w

from fedtl.deployment.coordinator.bundle import build_bundle
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.privacy_policy import effective_privacy, values_from_plan
from fedtl.deployment.site.settings import BudgetSettings, load_home_settings
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.errors import ConfigError, Denied
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.federation.policy import Code
from fedtl.messages import SpendEvent, Update
from fedtl.privacy import accounting
from fedtl.privacy import dp_sgd as mechanism
from fedtl.privacy.guarantee import divide_steps
from tests.deployment.site.sites import PRIVATE, Site
from tests.real_processes import Federation, fedtl_command

NOBODY = frozenset()
SHUT = {"policy__metrics": [], "policy__share_row_count": False}
OWN = {**PRIVATE, "delta": 1e-6, "sample_rate": 0.25, "steps": 3, "rounds": 2}
PLAN = ["privacy.epsilon=8", "privacy.delta=0.02", "privacy.clip=5", "train.batch_size=8", "train.epochs=2"]


def both(own, **asked):
    return effective_privacy(
        PrivacySettings(**{"epsilon": 3.0, **asked}), BudgetSettings(**{**PRIVATE, **own}), NOBODY
    )


@pytest.mark.parametrize(
    ("own", "asked", "unit"),
    [("patient", "record", "patient"), ("record", "patient", "patient"), ("patient", "visit", None)],
)
def test_a_plan_cannot_weaken_the_privacy_unit_of_the_site(own, asked, unit):
    if unit is None:
        with pytest.raises(Denied, match="policy.privacy.unit is 'patient'"):
            both({"unit": own}, unit=asked)
    else:
        assert both({"unit": own}, unit=asked).unit == unit


def test_the_sites_values_override_the_plans():
    its = both({"delta": 1e-6, "clip": 0.5}, delta=0.02, clip=5.0, noise="reproducible", statistics="dp")
    assert (its.epsilon, its.delta, its.clip, its.noise, its.statistics) == (3.0, 1e-6, 0.5, "os", "public")
    given = both({"sample_rate": 0.25, "steps": 3}, sample_rate=0.9, steps=99)
    assert (given.sample_rate, given.steps) == (0.25, 3)
    left = both({}, sample_rate=0.9, steps=99)
    assert (left.sample_rate, left.steps) == (0.9, 99)
    with pytest.raises(Denied, match="policy.privacy.epsilon is 8"):
        both({}, epsilon=9.0)


def test_only_a_metric_that_plan_and_policy_list_is_measured():
    own, asked = BudgetSettings(**PRIVATE), PrivacySettings(epsilon=3.0, metrics=["accuracy"])
    assert effective_privacy(asked, own, frozenset({"accuracy", "auc"})).metrics == ["accuracy"]
    assert effective_privacy(asked, own, NOBODY).metrics == []
    assert effective_privacy(None, own, frozenset({"accuracy"})).metrics == []


def test_the_values_from_the_plan_are_listed():
    plan = load_experiment("digits", ["privacy.epsilon=3", "rounds=4"])
    names = ["epsilon", "sample_rate", "steps_a_round", "rounds"]
    assert values_from_plan(plan, BudgetSettings(**PRIVATE)) == names
    assert values_from_plan(plan, BudgetSettings(**{**OWN, "epsilon": 3.0})) == []
    assert values_from_plan(plan, BudgetSettings(**{**OWN, "rounds": 5})) == ["epsilon", "rounds"]


@pytest.mark.parametrize(
    ("total", "epochs", "steps"),
    [(7, [1], (7,)), (7, [1, 1], (3, 4)), (9, [2, 1], (6, 3)), (1, [1, 1], (0, 1)), (5, [0], (0,))],
)
def test_the_steps_of_a_round_are_divided_over_its_phases(total, epochs, steps):
    assert divide_steps(total, epochs) == steps


@pytest.mark.parametrize("given", [{"sample_rate": 0}, {"sample_rate": 1.1}, {"steps": 0}, {"rounds": 0}])
def test_values_out_of_range_are_refused(tmp_path, given):
    Home.create(tmp_path / "home", "plain", "localhost:1")
    Federation.change(tmp_path / "home" / "silo.toml", policy__privacy={**PRIVATE, **given})
    with pytest.raises(ConfigError, match=f"policy.privacy.{next(iter(given))}"):
        load_home_settings(tmp_path / "home")


def charged(home):
    with_events = [line for line in ledger(home) if line["what"] == "charged"]
    return [[SpendEvent(*row) for row in line["events"]] for line in with_events]


def ledger(home):
    lines = json.loads(fedtl_command("silo", "ledger", home.path, "--json").stdout)
    return [line for line in lines if line["book"] == "ledger"]


def test_training_uses_the_values_of_silo_toml(tmp_path, monkeypatch):
    """In the training steps, in the ledger, in the accounting, and after the last allowed round."""
    site = Site(tmp_path, PLAN, policy__privacy=OWN, **SHUT)
    its = site.guarantee()
    training, values = its.training, (1.0, 0.25, (3,), 2)
    assert (training.clip, training.sample_rate, training.steps, training.rounds) == values
    assert its.delta == 1e-6
    seen, poisson = [], mechanism.poisson

    def spy(count, rate, draw):
        seen.append(rate)
        return poisson(count, rate, draw)

    monkeypatch.setattr(mechanism, "poisson", spy)
    for number in (1, 2):
        assert isinstance(site.ask(site.task(number)), Update), site.lines()[-1]
    assert seen == [0.25] * 6
    assert charged(site.home) == [[SpendEvent(training.noise_multiplier, 0.25, 3)]] * 2
    (planned,) = (line for line in ledger(site.home) if line["what"] == "planned")
    assert planned["delta"] == 1e-6
    whole = [SpendEvent(training.noise_multiplier, 0.25, 6)]
    assert planned["epsilon"] == pytest.approx(accounting.epsilon(whole, 1e-6))
    assert 7.9 < planned["epsilon"] <= 8.0
    site.refused(site.task(3), Code.DECLINED, "9 steps")
    assert len(charged(site.home)) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("batch_size = 8", "batch_size = 40"),
        ("epochs = 2", "epochs = 9"),
        ("rounds = 4", "rounds = 40"),
        ("epsilon = 8.0", "epsilon = 7.0"),
    ],
)
def test_values_from_the_plan_cannot_change_after_approval(tmp_path, old, new):
    """The approved hash of the plan covers every value that silo.toml does not set."""
    site = Site(tmp_path, PLAN, policy__privacy=PRIVATE, **SHUT)
    text = site.file.read_text()
    assert text.count(old) == 1
    site.file.write_text(text.replace(old, new))
    site.refused(site.task(), Code.PLAN, "is not approved")
    site.file.write_text(text)
    site.refused(site.task(rounds=40), Code.PLAN, "plan has 4 rounds")
    assert isinstance(site.ask(site.task()), Update)
    Federation.change(site.home.path / "silo.toml", policy__privacy={**PRIVATE, "steps": 2})
    site.refused(site.task(2), Code.DECLINED, "another plan")  # nor does its own steward, half way


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = load_experiment("digits", ["minimum_silos=3", "rounds=20", "privacy.epsilon=2"])
    return build_bundle(tmp_path_factory.mktemp("server") / "bundles", "digits", settings)


def test_rehearse_approve_and_status_print_the_source_of_each_value(tmp_path, made):
    Home.create(tmp_path / "home", "plain", "localhost:1")
    own = {**PRIVATE, "delta": 1e-6, "steps": 5}
    given = {"data__source": "digits", "data__path": "", "policy__privacy": own, **SHUT}
    Federation.change(tmp_path / "home" / "silo.toml", **given)
    home = tmp_path / "home"
    said = [
        fedtl_command("silo", "rehearse", home, made.file).stderr,
        fedtl_command("silo", "approve", home, made.hash).stderr,
        fedtl_command("silo", "status", home).stdout,
    ]
    for text in said:
        lines = [" ".join(line.replace(":", " ").split()) for line in text.splitlines()]
        assert {
            "delta 1e-06 (from silo.toml)",
            "clip 1 (from silo.toml)",
            "steps a round 5 (from silo.toml)",
        } <= set(lines)
        theirs = sorted(
            line.rpartition(" (")[0] for line in lines if line.endswith("(from the approved plan)")
        )
        assert [line.rpartition(" ")[0] for line in theirs] == ["epsilon", "rounds", "sample rate"]
        assert theirs[1] == "rounds 20"


def test_a_new_silo_toml_has_a_budget_and_three_optional_values(tmp_path):
    home = Home.create(tmp_path / "home", "plain", "localhost:1")
    path = home.path / "silo.toml"
    assert home.settings.policy.privacy == BudgetSettings(epsilon=3.0, lifetime_epsilon=10.0)
    for line in ("sample_rate = 0.05", "steps = 20", "rounds = 20"):
        assert path.read_text().count(f"# {line} ") == 1
        path.write_text(path.read_text().replace(f"# {line} ", f"{line} "))
    its = load_home_settings(home.path).policy.privacy
    assert (its.sample_rate, its.steps, its.rounds) == (0.05, 20, 20)


def test_a_simulation_can_set_sample_rate_and_steps(tmp_path):
    path = tmp_path / "own.toml"
    table = {"rounds": 2, "data": {"limit": 40}, "privacy": {"epsilon": 8.0, "sample_rate": 0.25, "steps": 3}}
    path.write_text(tomli_w.dumps(table))
    its = json.loads(fedtl_command("show", path, "--json").stdout)
    text = json.dumps(its)
    assert '"sample_rate": 0.25' in text
    assert '"steps_a_round": 3' in text


def test_a_site_without_a_budget_trains_an_open_plan_without_privacy(tmp_path):
    site = Site(tmp_path)
    assert site.plan.privacy is None
    assert site.plan.released_metrics is None
    assert SitePlan(site.home, site.plan.agreement).terms.rounds == 4
