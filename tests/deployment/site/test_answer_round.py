"""A site's answer to a task, without a network: the reply, the stored state and the record."""

import json
import os
import stat
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save_file

from fedtl.deployment.coordinator.host import host_study
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.plan import load_agreement, make_agreement
from fedtl.deployment.site.answer_round import answer_round
from fedtl.deployment.site.approvals import is_approved
from fedtl.deployment.site.approve import record_approval
from fedtl.deployment.site.covered import uncovered_lines
from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signed import SignedTerms
from fedtl.deployment.site.signing import present_terms
from fedtl.deployment.site.site_plan import SitePlan, build_study, check_policy
from fedtl.deployment.site.site_rows import load_rows
from fedtl.deployment.site.site_silo import make_silo, site_guarantee
from fedtl.deployment.site.status import dataset_budget, record_and_ledger_lines, site_status
from fedtl.errors import Denied
from fedtl.experiment.config.load import load_experiment
from fedtl.federation.flower import reply_from_message, reply_to_records
from fedtl.federation.policy import Code
from fedtl.federation.rounds import FederationConfig
from fedtl.messages import Refusal, Task, Update
from fedtl.methods.server import ServerStep
from fedtl.models.net import ModelSpec
from fedtl.privacy import charge
from tests.federation.test_flower import sent
from tests.real_processes import Federation

SETTINGS = ["rounds=4", "minimum_silos=2", "data.limit=40"]
PRIVATE = {"epsilon": 8.0, "lifetime_epsilon": 8.0, "clip": 1.0, "statistics": "public"}


class Site:
    """A site's folder, an agreement that it approved, and the tasks that a server would send."""

    def __init__(self, folder, overrides=(), dp_ready=False, base="", **settings):
        Home.create(folder / "home", "plain", "localhost:1")
        given = {
            "data__source": "digits",
            "data__path": "",
            "data__limit": 40,
            "policy__privacy": None,
            "policy__share_row_count": True,
            "policy__metrics": ["accuracy"],
            "policy__minimum_silos": 2,
            **settings,
        }
        Federation.change(folder / "home" / "silo.toml", **given)
        its = make_agreement(
            load_experiment("digits", [*SETTINGS, *overrides]), (1, 8, 8), (), base, dp_ready
        )
        self.file = folder / "plan.toml"
        self.file.write_text(its.dump())
        self.home = Home.open(folder / "home")
        self.approve()
        trainer = self.plan.dry_study.trainer
        self.shared, _ = trainer.partition.split(trainer.initial(10))
        self.roles = trainer.partition.roles

    def approve(self, studies=1, until="2999-12-31"):
        """Approve the plan in the file under the present terms."""
        self.home = Home.open(self.home.path)
        self.plan = plan = SitePlan(self.home, load_agreement(self.file))
        check_policy(plan)
        guarantee = self.guarantee() if plan.privacy else None
        signed = present_terms(plan, load_rows(plan).data, guarantee, studies, until)
        return record_approval(self.home, "0" * 64, signed, plan.manifest, None)

    def study(self):
        return build_study(self.plan, load_rows(self.plan).data.classes)

    def silo(self, study):
        return make_silo(self.plan, study, load_rows(self.plan))

    def guarantee(self):
        return site_guarantee(self.plan, self.study(), load_rows(self.plan))

    def task(self, number=1, **changes):
        return Task(
            **{"study": "s", "round": number, "rounds": 4, "seed": 0, "shared": self.shared, **changes}
        )

    def ask(self, task):
        return answer_round(Home.open(self.home.path), lambda: self.file, lambda: task)

    def refused(self, task, code, reason):
        reply = self.ask(task)
        assert isinstance(reply, Refusal)
        assert reply.reason == code
        assert reason in self.lines()[-1]["reason"]
        assert self.lines()[-1]["what"] == "refused"

    def lines(self):
        return [line.as_json() for line in self.home.record.written()]

    def terms_signed(self):
        return SignedTerms.model_validate(
            next(line for line in self.lines() if line["what"] == "approved")["signed"]
        )

    def kept(self):
        (path,) = (self.home.path / "state").rglob("*.safetensors")
        return path


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_round_leaves_its_update_its_state_and_two_lines(site):
    update = site.ask(site.task())
    assert isinstance(update, Update)
    assert update.delta.keys() == {line.name for line in site.plan.manifest.lines}
    assert not any(name.startswith("head") or "running" in name for name in update.delta)
    received, began, sent = site.lines()[-3:]
    assert (received["what"], began["what"], began["study"]) == ("received", "began", "s")
    assert (sent["what"], sent["round"]) == ("sent", 1)
    assert sent["tensors"].keys() == update.delta.keys()
    assert sent["bytes"] == site.plan.manifest.bytes
    assert uncovered_lines(parse_lines(site.lines())) == []
    for path in [site.home.path, *site.home.path.rglob("*")]:
        if path.name not in ("node.key.pub",):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_a_plan_with_initial_weights_needs_the_same_file(tmp_path):
    """The backbone exists before the study: every site has the file, and the plan has its hash."""
    trainer = Site(tmp_path / "other").plan.dry_study.trainer
    fresh = trainer.initial(10)
    file = tmp_path / "base.safetensors"
    save_file({name: its + 1 for name, its in fresh.items() if name.startswith("body.")}, file)
    base = sha256(file.read_bytes()).hexdigest()

    site = Site(tmp_path / "has", base=base, weights=str(file))
    begun = site.plan.dry_study.trainer.initial(10)
    moved = {name for name, its in begun.items() if not torch.equal(its, fresh[name])}
    assert moved == {name for name in fresh if name.startswith("body.")}
    update = site.ask(site.task())
    assert isinstance(update, Update), site.lines()[-1]

    file.write_bytes(file.read_bytes() + b" ")
    site.refused(site.task(2), Code.PLAN, base[:12])
    file.unlink()
    site.refused(site.task(2), Code.PLAN, base[:12])


def test_the_same_task_again_gives_the_same_bytes_and_trains_nothing(site, monkeypatch):
    first = site.ask(site.task())
    before = site.kept().read_bytes()
    monkeypatch.setattr("fedtl.training.trainer.Trainer.fit", lambda *_: pytest.fail("trained again"))
    again = site.ask(site.task())
    assert same(first.delta, again.delta)
    assert (again.weight, again.metrics) == (first.weight, first.metrics)
    assert site.kept().read_bytes() == before
    assert site.lines()[-1]["again"] is True


def test_the_next_round_continues_from_the_stored_state(site):
    """As a trainer that was never stopped."""
    study = site.study()
    silo = site.silo(study)
    for number in (1, 2):
        there = study.trainer.fit(silo, site.task(number))
        here = site.ask(site.task(number))
        assert same(here.delta, there.delta)


def test_an_older_round_and_another_task_for_the_same_round_are_refused(site):
    for number in (1, 2, 3):
        site.ask(site.task(number))
    site.refused(site.task(2), Code.ROUND, "round 2 is over")
    moved = {name: its + 1 for name, its in site.shared.items()}
    site.refused(site.task(3, shared=moved), Code.ROUND, "for another task")
    assert isinstance(site.ask(site.task(4)), Update)


@pytest.mark.parametrize(
    ("code", "reason", "change"),
    [
        (Code.TENSORS, "'head.weight'", lambda s: {"shared": {**s, "head.weight": torch.zeros(10, 64)}}),
        (Code.TENSORS, "running_mean", lambda s: {"shared": {**s, "body.features.1.running_mean": torch.zeros(32)}}),
        (Code.TENSORS, "body.features.0.weight as [64", lambda s: {"shared": {**s, "body.features.0.weight": torch.zeros(64, 1, 3, 3)}}),
        (Code.PLAN, "plan has 4 rounds", lambda s: {"rounds": 40}),
        (Code.PLAN, "seed 1", lambda s: {"seed": 1}),
        (Code.PLAN, "(9 characters)", lambda s: {"study": "../../etc"}),
    ],
)  # fmt: skip
def test_a_server_that_asks_for_more_is_refused(site, code, reason, change):
    site.refused(site.task(**change(site.shared)), code, reason)
    assert not (site.home.path / "state").exists()


def test_a_plan_that_was_not_approved_or_has_changed_since_is_refused(site):
    site.file.write_text(site.file.read_text().replace("lr = 0.05", "lr = 0.06"))
    site.refused(site.task(), Code.PLAN, "is not approved")


@pytest.mark.parametrize("content", ["", "[]", "{", '[{"bundle": "x"}]', None])
def test_an_empty_missing_or_unreadable_list_approves_nothing(site, content):
    site.home.approved.unlink()
    if content is not None:
        site.home.approved.write_text(content)
    assert not is_approved(site.home.approved, "0" * 64)
    site.refused(site.task(), Code.PLAN, "is not approved")


def test_another_fedtl_than_was_approved_does_not_run(site, monkeypatch):
    monkeypatch.setattr("fedtl.deployment.site.covered.code_hash", lambda: "f" * 64)
    site.refused(site.task(), Code.PLAN, "another fedtl")


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("policy.methods allows fedper", {"policy__methods": ["fedper"]}),
        ("policy.models allows none", {"policy__models": []}),
        ("policy.roles allows body", {"policy__roles": ["body"]}),
        ("allows 10", {"policy__max_bytes_per_round": 10}),
        ("policy.minimum_silos is 3", {"policy__minimum_silos": 3}),
        ("--dp-ready", {"policy__privacy": PRIVATE}),
    ],
)
def test_a_changed_policy_holds_from_the_next_round(site, reason, changes):
    Federation.change(site.home.path / "silo.toml", **changes)
    site.refused(site.task(), Code.PLAN, reason)


def test_denied_metrics_and_row_counts_do_not_leave(tmp_path):
    site = Site(tmp_path, policy__share_row_count=False, policy__metrics=[])
    update = site.ask(site.task())
    assert (update.weight, dict(update.metrics)) == (1.0, {})


def test_an_unexpected_error_is_only_in_the_sites_log(site, monkeypatch):
    def fit(*_):
        raise RuntimeError("patient 4711 has no value")

    monkeypatch.setattr("fedtl.training.trainer.Trainer.fit", fit)
    reply = site.ask(site.task())
    assert reply == Refusal("plain", 1, Code.FAILED)
    assert "4711" not in json.dumps(site.lines())
    assert "4711" in (site.home.path / "silo.log").read_text()


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
        assert site.lines()[-1]["number_of_units"].startswith("not in the message; public under the claim")
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
        def silos(self):
            return list(homes)

        def ask(self, task, silos):
            return [crossed(homes[name].ask(task), task) for name in silos]

    config = FederationConfig("s", 0, 4, ServerStep("mean"), minimum_silos=2)
    plan = StudyPlan(config, open_.roles, "b", deadline=1.0, tries=1, bundle="h", plan="p")
    study = HostedStudy.create(tmp_path / "srv", plan, open_.shared)
    result = host_study(study, lambda minimum, deadline: Both())
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


def test_an_update_with_another_tensor_never_leaves(site, monkeypatch):
    fit = type(site.plan.dry_study.trainer).fit

    def leaky(trainer, silo, task):
        update = fit(trainer, silo, task)
        return replace(update, delta={**update.delta, "head.weight": silo.local["head.weight"]})

    monkeypatch.setattr("fedtl.training.trainer.Trainer.fit", leaky)
    site.refused(site.task(), Code.TENSORS, "'head.weight'")
    assert not (site.home.path / "state").exists()


def test_the_stored_state_is_encrypted_with_key_file(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    site = Site(tmp_path, key_file=str(key))
    site.ask(site.task())
    content = site.kept().read_bytes()
    assert b"local.head" not in content
    assert isinstance(site.ask(site.task(2)), Update)
    site.kept().write_bytes(site.kept().read_bytes()[:-1] + b"x")
    site.refused(site.task(3), Code.DECLINED, "key_file")


def test_a_folder_with_readable_secrets_is_not_opened(site):
    (site.home.path / "secret").chmod(0o644)
    with pytest.raises(Exception, match="chmod 600"):
        Home.open(site.home.path)


def test_a_malformed_message_is_refused_and_recorded(site):
    def decode():
        raise Denied(Code.TENSORS, "the message is no task: 7 records")

    reply = answer_round(site.home, lambda: site.file, decode)
    assert reply == Refusal("plain", 0, Code.TENSORS)
    assert site.lines()[-1]["reason"] == "the message is no task: 7 records"
