"""A private round at a site: charged once, and only what has noise leaves."""

from dataclasses import replace

import pytest

from fedtl.deployment.coordinator.host import host_study
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.site.status import dataset_budget, record_and_ledger_lines, site_status
from fedtl.federation.flower import reply_from_message, reply_to_records
from fedtl.federation.policy import Code
from fedtl.federation.rounds import FederationConfig
from fedtl.messages import Refusal, Update
from fedtl.methods.server import ServerStep
from fedtl.models.net import ModelSpec
from fedtl.privacy import charge
from tests.deployment.site.sites import PRIVATE, Site, same
from tests.federation.grids import sent
from tests.real_processes import Federation


def test_a_private_round_is_charged_once(tmp_path):
    site = Site(
        tmp_path, dp_ready=True, policy__privacy=PRIVATE, policy__metrics=[], policy__share_row_count=False
    )
    first = site.ask(site.task())
    assert (first.weight, dict(first.metrics)) == (1.0, {})
    assert [len(events) for events in charged(site)] == [1]
    spent = dataset_budget(site.home)
    again = site.ask(site.task())
    assert same(first.delta, again.delta)
    assert dataset_budget(site.home) == spent
    assert site_status(site.home).budget.left == pytest.approx(8.0 - spent.spent)


def test_a_private_message_does_not_hold_the_row_count(tmp_path):
    """The size of the noise still reveals it, which is why the row count is public under the claim."""
    told = []
    for limit in (40, 60):
        site = Site(tmp_path / str(limit), dp_ready=True, data__limit=limit, policy__privacy=PRIVATE, policy__metrics=[], policy__share_row_count=False)  # fmt: skip
        update = site.ask(site.task())
        assert isinstance(update, Update), site.lines()[-1]
        records = reply_to_records(update)
        assert set(records) == {"update", "delta", "metrics"}
        told.append((dict(records["update"]), dict(records["metrics"])))
        assert "; public under the claim" in site.lines()[-1]["number_of_units"]
    assert told[0] == told[1]


TOLD = ["privacy.epsilon=8", 'privacy.metrics=["accuracy"]']


def charged(site):
    """The events of each charged round."""
    return [line["events"] for line in record_and_ledger_lines(site.home) if line["what"] == "charged"]


def crossed(update, task):
    """The update as the coordinator gets it, through Flower's records."""
    return reply_from_message(sent(reply_to_records(update)), update.silo, task)


def test_a_private_metric_leaves_where_the_policy_allows_it(tmp_path):
    site = Site(tmp_path, TOLD, policy__privacy=PRIVATE, policy__share_row_count=False)
    for number in (1, 2):
        update = site.ask(site.task(number))
        assert isinstance(update, Update), site.lines()[-1]
        assert set(update.metrics) == {"accuracy"}
        assert crossed(update, site.task(number)).metrics == update.metrics
        assert site.lines()[-1]["metrics"] == dict(update.metrics)
    assert site.ask(site.task(2)).metrics == update.metrics
    paid = site.guarantee().releases.accuracy.event
    for events in charged(site):
        assert [paid.noise_multiplier, paid.sample_rate, paid.steps] in events
    Federation.change(site.home.path / "silo.toml", policy__metrics=[])
    site.refused(site.task(2), Code.DECLINED, "'accuracy' has no noise")  # nor what was kept


def test_a_denied_metric_is_neither_measured_nor_charged(tmp_path):
    site = Site(tmp_path, TOLD, policy__privacy=PRIVATE, policy__share_row_count=False, policy__metrics=[])
    update = site.ask(site.task())
    assert isinstance(update, Update), site.lines()[-1]
    assert dict(update.metrics) == {}
    assert [len(events) for events in charged(site)] == [1]


def test_a_metric_without_validation_rows_is_refused_before_charging(tmp_path):
    site = Site(tmp_path, TOLD, policy__privacy=PRIVATE, policy__share_row_count=False)
    Federation.change(site.home.path / "silo.toml", data__val=0.0)
    reply = site.ask(site.task())
    assert reply == Refusal("plain", 1, Code.FAILED)
    assert "no validation rows" in site.lines()[-1]["reason"]
    assert not site.home.ledger.exists()


def test_a_metric_without_noise_never_leaves_a_private_site(tmp_path, monkeypatch):
    site = Site(tmp_path, ["privacy.epsilon=8"], policy__privacy=PRIVATE, policy__share_row_count=False)
    assert dict(site.ask(site.task()).metrics) == {}
    fit = type(site.plan.dry_study.trainer).fit
    leaky = lambda *words: replace(fit(*words), metrics={"accuracy": 0.5})  # noqa: E731
    monkeypatch.setattr("fedtl.training.trainer.Trainer.fit", leaky)
    site.refused(site.task(2), Code.DECLINED, "'accuracy' has no noise")


def test_sites_of_one_study_may_send_different_metrics(tmp_path):
    """Of two sites of one plan, one does not send its accuracy. Both updates count."""
    open_, shut = (
        Site(tmp_path / name, TOLD, name=name, data__silo="plain", policy__privacy=PRIVATE, policy__share_row_count=False, policy__metrics=metrics)
        for name, metrics in (("open", ["accuracy"]), ("shut", []))
    )  # fmt: skip
    homes = {"open": open_, "shut": shut}

    class Both:
        def away(self):
            return {}

        def silos(self):
            return list(homes)

        def ask(self, task, silos):
            return [crossed(homes[name].ask(task), task) for name in silos]

    config = FederationConfig("s", 0, 4, ServerStep("mean"), minimum_silos=2)
    plan = StudyPlan(config, open_.roles, "b", deadline=1.0, tries=1, bundle="h", plan="p")
    study = HostedStudy.create(tmp_path / "srv", plan, open_.shared)
    result = host_study(study, lambda plan, former: Both())
    assert result.silos == {"open": 4, "shut": 4}
    for line in study.log.lines():
        assert {name: list(told) for name, told in line.silos.items()} == {
            "open": ["accuracy"],
            "shut": [],
        }


def test_an_interrupted_charged_round_is_never_computed_again(tmp_path, monkeypatch):
    site = Site(
        tmp_path, dp_ready=True, policy__privacy=PRIVATE, policy__metrics=[], policy__share_row_count=False
    )
    with monkeypatch.context() as broken:
        broken.setattr(charge, "_packed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            site.ask(site.task())
    spent = dataset_budget(site.home).spent
    assert spent > 0
    site.refused(site.task(), Code.DECLINED, "has no reply")
    assert dataset_budget(site.home).spent == spent
    assert isinstance(site.ask(site.task(2)), Update)


def test_the_server_does_not_learn_that_a_budget_is_spent(tmp_path):
    site = Site(
        tmp_path,
        dp_ready=True,
        policy__privacy={**PRIVATE, "lifetime_epsilon": 9.0},
        policy__metrics=[],
        policy__share_row_count=False,
    )
    site.approve(studies=2)
    for number in (1, 2, 3, 4):
        assert isinstance(site.ask(site.task(number)), Update)
    reply = site.ask(site.task(study="second"))
    assert reply == Refusal("plain", 1, Code.DECLINED)
    assert "of 9 and" in site.lines()[-1]["reason"]


def test_a_model_whose_records_interact_is_refused_before_charging(tmp_path, monkeypatch):
    site = Site(
        tmp_path, dp_ready=True, policy__privacy=PRIVATE, policy__metrics=[], policy__share_row_count=False
    )
    sound = ModelSpec.net

    def net(self, *its):
        made = sound(self, *its)
        made.body.register_forward_hook(lambda module, inputs, output: output + 0.1 * output.mean(0))
        return made

    with monkeypatch.context() as broken:
        broken.setattr(ModelSpec, "net", net)
        site.refused(site.task(), Code.FAILED, "plain: a record's scores")
    assert not site.home.ledger.exists()
    assert isinstance(site.ask(site.task()), Update)


def test_a_study_begun_without_privacy_cannot_continue_privately(tmp_path):
    """Its head was trained on private rows without noise, so starting from it would break the guarantee."""
    site = Site(tmp_path, dp_ready=True)
    assert isinstance(site.ask(site.task()), Update)
    Federation.change(site.home.path / "silo.toml", policy__privacy=PRIVATE, policy__metrics=[])
    site.refused(site.task(2), Code.DECLINED, "is local-only")
    assert not site.home.ledger.exists()  # nothing was charged for it


def test_a_site_without_a_budget_refuses_a_private_plan(tmp_path):
    """Otherwise the server would choose epsilon, delta and clip."""
    asked = ["privacy.epsilon=90", "privacy.delta=0.02", "privacy.clip=5"]
    loose = {**PRIVATE, "epsilon": 90.0, "lifetime_epsilon": 90.0, "clip": 0.5}
    site = Site(tmp_path, asked, policy__privacy=loose, policy__metrics=[], policy__share_row_count=False)
    its = site.plan.privacy
    assert (its.epsilon, its.delta, its.clip) == (90.0, "auto", 0.5)
    Federation.change(site.home.path / "silo.toml", policy__privacy=None)
    site.refused(site.task(), Code.PLAN, "(epsilon 90)")
    assert "[policy.privacy] epsilon = 3.0, lifetime_epsilon = 10.0" in site.lines()[-1]["reason"]
    assert "\n" not in site.lines()[-1]["reason"]
    assert not site.home.ledger.exists()


def test_a_server_that_asks_for_less_noise_is_refused(tmp_path):
    site = Site(
        tmp_path,
        ["privacy.epsilon=8"],
        policy__privacy=PRIVATE,
        policy__metrics=[],
        policy__share_row_count=False,
    )
    strict = {**PRIVATE, "epsilon": 1.0}
    Federation.change(site.home.path / "silo.toml", policy__privacy=strict)
    site.refused(site.task(), Code.PLAN, "policy.privacy.epsilon is 1")
