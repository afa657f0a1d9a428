"""Compression under differential privacy: it comes after the noise, and the residual depends on nothing but noisy tensors."""

from dataclasses import replace

import pytest
import torch

from fedtl.errors import Refused
from fedtl.methods.error_feedback import with_wire
from fedtl.methods.registry import METHODS
from fedtl.methods.sets import RESIDUAL, part
from fedtl.methods.wire import Wire
from fedtl.privacy.taint import Label
from tests.experiment.private_silos import bench_of, same, silo_of, task_of
from tests.privacy.test_taint import trained_openly


def wired(dtype="int8"):
    return bench_of(with_wire(METHODS["fedtl"](), Wire(dtype)))


@pytest.mark.parametrize("dtype", ["int8", "top-k", "sign"])
def test_residual_and_message_are_functions_of_the_noisy_update(dtype, tmp_path):
    """Beside the same round without compression and with the same noise: message + residual is its noisy update."""
    trainer, plain = wired(dtype), bench_of("fedtl")
    silo, other = silo_of(trainer, tmp_path / "a"), silo_of(plain, tmp_path / "b")
    total = dict.fromkeys(task_of(plain).shared, 0.0)
    sent = dict(total)
    for number in (1, 2):
        for one in (silo, other):
            one.guarantee = replace(one.guarantee, seed=number)
        task = task_of(plain, number)
        read = trainer.encoding.decode(trainer.fit_unaccounted(silo, task).delta, task.shared)
        noisy = plain.fit_unaccounted(other, task).delta
        total = {name: total[name] + noisy[name] for name in total}
        sent = {name: sent[name] + read[name] for name in sent}
    residual = part(silo.local, RESIDUAL)
    for name in residual:
        torch.testing.assert_close(residual[name], total[name] - sent[name], rtol=1e-4, atol=1e-5)
    assert same({name: t for name, t in silo.local.items() if not name.startswith(RESIDUAL)}, other.local)
    assert {silo.labels[f"{RESIDUAL}/{name}"] for name in residual} == {Label.MECHANISM}


def test_the_same_round_again_releases_the_same_bytes(tmp_path):
    trainer = wired()
    silo = silo_of(trainer, tmp_path)
    first = trainer.fit(silo, task_of(trainer))
    kept = silo.local
    assert same(trainer.fit(silo, task_of(trainer)).delta, first.delta)
    assert same(silo.local, kept)
    assert any(one.any() for one in part(kept, RESIDUAL).values())


def test_a_residual_of_open_training_never_enters_a_private_round(tmp_path):
    trainer = wired()
    silo = silo_of(trainer, tmp_path)
    trained_openly(trainer, silo, task_of(trainer))
    residuals = [name for name in silo.local if name.startswith(RESIDUAL)]
    assert {silo.labels[name] for name in residuals} == {Label.LOCAL}
    silo.labels = {name: label if name in residuals else Label.PUBLIC for name, label in silo.labels.items()}
    with pytest.raises(Refused, match="residual"):
        trainer.fit(silo, task_of(trainer))
    assert not silo.guarantee.account.path.exists()
