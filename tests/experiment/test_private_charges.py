"""What a private round is charged, and which rounds cost nothing, are answered again, or are lost."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from fedtl.errors import BudgetExhausted, ConfigError, Refused, RoundLost, SiloFailed
from fedtl.experiment.privacy_report import spent_privacy
from fedtl.messages import SpendEvent, Update
from fedtl.models.state import copy_state
from fedtl.privacy import accounting, charge
from fedtl.privacy import dp_sgd as mechanism
from fedtl.privacy.ledger_reading import check_study_fits
from fedtl.training import private
from tests.experiment.private_silos import bench_of, data_of, meet, same, silo_of, task_of
from tests.problems import with_training


def test_a_net_in_which_records_meet_costs_nothing(meeting, tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, statistics="dp")
    for number in (1, 2):
        with pytest.raises(ConfigError, match=r"^here: .*layer head"):
            trainer.fit(silo, task_of(trainer, number))
    assert not silo.guarantee.account.path.exists()


def test_gradients_that_nobody_can_take_cost_nothing(monkeypatch, tmp_path):
    def none(*its):
        raise ConfigError("privacy: per-example gradients of this model cannot be computed")

    monkeypatch.setattr(private, "choose_gradient_method", none)
    silo = silo_of(bench_of(), tmp_path)
    with pytest.raises(ConfigError, match="^here: privacy: per-example"):
        bench_of().fit(silo, task_of(bench_of()))
    assert not silo.guarantee.account.path.exists()


def test_a_net_that_goes_wrong_later_costs_what_was_trained(tmp_path):
    """Looked at before the charge of each round, in each of its phases."""
    trainer = bench_of("fedrep")
    silo = silo_of(trainer, tmp_path)
    trainer.fit(silo, task_of(trainer, 1))
    cost = spent_privacy(silo.guarantee, "study")
    hook = trainer.net(3).body.register_forward_hook(meet)
    with pytest.raises(ConfigError, match="here: a record's"):
        trainer.fit(silo, task_of(trainer, 2))
    assert spent_privacy(silo.guarantee, "study") == cost
    hook.remove()
    trainer.fit(silo, task_of(trainer, 2))


def test_a_net_that_diverged_costs_nothing(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path)
    huge = {name: tensor * 1e30 for name, tensor in task_of(trainer).shared.items()}
    with pytest.raises(SiloFailed, match=r"^here: .*train\.lr"):
        trainer.fit(silo, task_of(trainer, shared=huge))
    assert not silo.guarantee.account.path.exists()


def test_all_rounds_together_come_to_the_promise_and_no_further(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, rounds=2, statistics="dp", epsilon=3.0)
    for number in (1, 2):
        trainer.fit(silo, task_of(trainer, number))
    its = silo.guarantee
    q, steps = 16 / 60, 4
    wanted = [
        SpendEvent(its.releases.statistics.noise_multiplier, 1.0, 1),
        SpendEvent(its.training.noise_multiplier, q, 2 * steps),
    ]
    assert spent_privacy(its, "study").epsilon == pytest.approx(accounting.epsilon(wanted, its.delta))
    assert 2.9 < spent_privacy(its, "study").epsilon <= 3.0
    assert spent_privacy(its, "study").epsilon_replace_one > spent_privacy(its, "study").epsilon
    before = copy_state(silo.local)
    with pytest.raises(Refused, match="12 steps") as caught:
        trainer.fit(silo, task_of(trainer, 3))
    assert caught.value.exit_code == 3
    assert same(silo.local, before)
    with pytest.raises(BudgetExhausted, match="study 'another'"):
        trainer.fit(silo, task_of(trainer, 1, study="another"))


def test_a_study_that_ends_early_claims_its_whole_plan(tmp_path):
    """Whether it ends may depend on its results, so what its rounds came to is no claim, and not left for another study."""
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, rounds=3, epsilon=3.0)
    its = silo.guarantee
    assert spent_privacy(its, "study").epsilon == 0.0  # nothing was planned yet
    trainer.fit(silo, task_of(trainer))
    claimed = spent_privacy(its, "study")
    whole, first = its.schedule(), its.events(first=True)
    assert claimed.epsilon == its.epsilon == pytest.approx(accounting.epsilon(whole, its.delta))
    assert claimed.epsilon_replace_one == pytest.approx(accounting.epsilon(whole, its.delta, True))
    assert claimed.epsilon_charged == pytest.approx(accounting.epsilon(first, its.delta))
    assert claimed.epsilon_charged < 0.8 * claimed.epsilon
    short = with_training(its, rounds=1, steps=(1,) * len(its.training.steps))
    with pytest.raises(BudgetExhausted):
        check_study_fits(short.account, replace(short, epsilon=1.0).plan())


def test_the_same_round_again_gives_the_same_bytes_and_costs_nothing(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path)
    update = trainer.fit(silo, task_of(trainer))
    local, cost = copy_state(silo.local), spent_privacy(silo.guarantee, "study")
    again = replace(silo, local=silo_of(trainer, tmp_path).local)
    assert same(trainer.fit(again, task_of(trainer)).delta, update.delta)
    assert same(again.local, local)
    assert spent_privacy(silo.guarantee, "study") == cost
    changed = {name: tensor + 1 for name, tensor in task_of(trainer).shared.items()}
    with pytest.raises(Refused, match="another task"):
        trainer.fit(silo, task_of(trainer, shared=changed))


def test_a_round_that_failed_after_its_charge_is_lost_and_says_nothing(tmp_path, monkeypatch, caplog):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path)

    def fails(*given, **more):
        raise ValueError("row 7 is Mrs Miller's")

    with monkeypatch.context() as patch:
        patch.setattr(mechanism.Mechanism, "step", fails)
        with pytest.raises(SiloFailed) as caught:
            trainer.fit(silo, task_of(trainer))
    assert str(caught.value).startswith("here: no update for round 1 (")
    assert "Miller" not in str(caught.value)
    assert "Mrs Miller" in caplog.text
    assert spent_privacy(silo.guarantee, "study").epsilon > 0
    with pytest.raises(RoundLost, match="no reply"):
        trainer.fit(silo, task_of(trainer))
    trainer.fit(silo, task_of(trainer, 2))


def test_other_rows_under_the_same_name_are_noticed(tmp_path):
    trainer = bench_of()
    trainer.fit(silo_of(trainer, tmp_path), task_of(trainer))
    other = silo_of(trainer, tmp_path, data_of(seed=1))
    with pytest.raises(Refused, match="rows have changed"):
        trainer.fit(other, task_of(trainer, 2))


def test_a_reply_keeps_every_bit(tmp_path):
    trainer = bench_of()
    update = trainer.fit(silo_of(trainer, tmp_path), task_of(trainer))
    local = {"head.x": torch.tensor([1.5, float("-inf")]), "count": torch.tensor(3)}
    back, own = charge._unpacked("here", charge._packed(update, local))
    assert back == replace(update, delta=back.delta)
    assert same(back.delta, update.delta)
    assert same(own, local)


def test_the_bytes_of_a_reply_are_those_that_ledgers_already_hold():
    """Written by hand; a stored reply must be read again, and its hash is in the ledger."""
    update = Update("here", 3, {"w": torch.ones(2)}, 1.0, {"accuracy": 0.5})
    wanted = save(
        {"delta.w": torch.ones(2), "local.b": torch.zeros(1)},
        {"header": '{"metrics": {"accuracy": 0.5}, "round": 3, "weight": 1.0}'},
    )
    assert charge._packed(update, {"b": torch.zeros(1)}) == wanted
