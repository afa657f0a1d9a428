"""A site answers a round as approved, and refuses every other message."""

import json
import os
import stat
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save_file

from fedtl.deployment.site.answer_round import answer_round
from fedtl.deployment.site.approvals import is_approved
from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.errors import Denied
from fedtl.federation.policy import Code
from fedtl.messages import Refusal, Update
from tests.deployment.site.sites import PRIVATE, Site, same
from tests.real_processes import Federation


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


def test_a_site_that_comes_late_answers_the_round_that_runs_and_none_before_it(site):
    assert isinstance(site.ask(site.task(3)), Update)
    site.refused(site.task(2), Code.ROUND, "round 2 is over")
    assert isinstance(site.ask(site.task(4)), Update)


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
    assert site.lines()[-1]["reason"].endswith(": 7 records")
