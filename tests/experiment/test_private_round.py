"""What leaves in a private round, and what is checked before it."""

from dataclasses import replace

import pytest
import torch

from fedtl.experiment.config.load import load_experiment
from fedtl.methods.registry import METHODS
from fedtl.models.roles import Role
from fedtl.models.state import copy_state
from fedtl.training import private
from fedtl.training.loop import TrainingConfig
from tests.experiment.private_silos import SMALL, bench_of, data_of, same, silo_of, task_of


def test_a_shared_weight_tells_nothing_about_how_many_rows_there_are(tmp_path):
    trainer = bench_of()
    few, many = (silo_of(trainer, tmp_path / str(n), data_of(n=n)) for n in (30, 90))
    assert trainer.fit(few, task_of(trainer)).weight == trainer.fit(many, task_of(trainer)).weight


def test_two_rounds_and_two_silos_never_share_noise(tmp_path):
    """With a learning rate of one plain step, what moves is noise: two draws of it are as good as orthogonal."""
    trainer = bench_of(training=TrainingConfig(batch_size=60, momentum=0.0))
    moved = []
    for name in ("a", "b"):
        silo = silo_of(trainer, tmp_path / name, name=name, epsilon=0.2)
        for number in (1, 2):
            delta = trainer.fit(silo, task_of(trainer, number)).delta
            moved.append(torch.cat([tensor.flatten() for tensor in delta.values()]))
    for one in range(4):
        for other in range(one):
            assert abs(torch.corrcoef(torch.stack([moved[one], moved[other]]))[0, 1]) < 0.1


def test_statistics_change_by_dp_adabn_alone_and_once(tmp_path):
    trainer = bench_of()
    names = list(trainer.partition.names(Role.STATS))
    for kind, moves in (("public", False), ("dp", True)):
        silo = silo_of(trainer, tmp_path / kind, statistics=kind)
        before = copy_state(silo.local)
        trainer.fit(silo, task_of(trainer, 1))
        first = copy_state(silo.local)
        trainer.fit(silo, task_of(trainer, 2))
        assert any(not torch.equal(before[name], first[name]) for name in names) is moves
        assert all(torch.equal(first[name], silo.local[name]) for name in names)


def test_an_imitation_is_a_private_round_that_is_charged_to_nobody(tmp_path):
    trainer = bench_of("fedrep")
    real, imitated = (
        silo_of(trainer, tmp_path / name, statistics="dp", noise="reproducible")
        for name in ("real", "imitated")
    )
    for number in (1, 2):
        update, other = (
            trainer.fit(real, task_of(trainer, number)),
            trainer.fit_unaccounted(imitated, task_of(trainer, number)),
        )
        assert same(update.delta, other.delta)
        assert same(real.local, imitated.local)
        assert real.labels == imitated.labels
    assert (tmp_path / "real").exists()
    assert not (tmp_path / "imitated").exists()
    with pytest.raises(ValueError, match="no privacy guarantee"):
        trainer.fit_unaccounted(replace(real, guarantee=None), task_of(trainer))


def test_what_is_released_is_looked_at_before_every_phase_whatever_an_imitation_found(tmp_path, monkeypatch):
    looked = []
    sound = private.check_examples_independent
    monkeypatch.setattr(
        private, "check_examples_independent", lambda *its, **keys: (looked.append(1), sound(*its, **keys))
    )
    trainer = bench_of("fedrep")
    phases = len(trainer.method.phases)
    silo = silo_of(trainer, tmp_path)
    for number in (1, 2):
        trainer.fit_unaccounted(silo, task_of(trainer, number))
    assert len(looked) == phases == 2
    for number in (1, 2, 3):
        trainer.fit(silo, task_of(trainer, number))
    assert len(looked) == 4 * phases


def test_a_term_on_weights_acts_under_privacy(tmp_path):
    """The noise is reproducible here, so that only mu differs."""
    found = []
    for mu in (0.0, 5.0):
        trainer = bench_of(METHODS["fedprox"](mu=mu), TrainingConfig(batch_size=16, epochs=2))
        silo = silo_of(trainer, tmp_path / str(mu), noise="reproducible")
        found.append(trainer.fit(silo, task_of(trainer)).delta)
    norms = [sum(float(tensor.norm()) ** 2 for tensor in delta.values()) for delta in found]
    assert 0 < norms[1] < 0.9 * norms[0]


def test_statistics_without_a_public_start_are_of_noise_and_of_nobodys_rows(tmp_path):
    """By hand: the first convolution's outputs on the same noise, their mean and variance."""
    from fedtl.experiment.pretrain import NOISES
    from fedtl.experiment.study import build
    from fedtl.simulation.shared_store import temporary_store

    with temporary_store() as shelf:
        seen = [
            build(load_experiment("digits", [*SMALL, f"data.silos={names}"]), shelf, shelf)
            for names in (["plain"], ["faint"])
        ]
        states = [study.trainer.initial(10) for study in seen]
    assert same(*states)
    x = torch.rand(NOISES, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    name = next(key for key in states[0] if key.endswith("running_mean"))
    first = torch.nn.functional.conv2d(x, next(t for key, t in states[0].items() if t.dim() == 4), padding=1)
    assert torch.allclose(states[0][name], first.mean((0, 2, 3)), atol=1e-5)
    assert not torch.allclose(states[0][name], torch.zeros(32), atol=1e-3)
