"""What the audit finds in methods that keep tensors between rounds; tests/methods/test_promises.py audits sound ones."""

import torch

from fedtl.audit.verdict import failed
from fedtl.training.trainer import Trainer
from tests.methods.promises.whole import retrained


def test_a_personal_model_trained_beside_the_noise_is_refuted(tmp_path, monkeypatch):
    """What stays at the silo, too, must follow from the noisy sums, because later rounds use it."""
    sound = Trainer.fit

    def fit(self, silo, task):
        update = sound(self, silo, task)
        mean = silo.data.train.x.double().nan_to_num(0.0).mean()
        shift = 1e-3 * torch.tanh(mean)
        silo.local = {
            key: value + shift.to(value) if key.startswith("personal/head") else value
            for key, value in silo.local.items()
        }
        return update

    monkeypatch.setattr(Trainer, "fit", fit)
    reasons = {check.name: check.reason for check in failed(retrained("mrmtl", tmp_path))}
    assert "personal" in reasons["noisy sums alone"]
