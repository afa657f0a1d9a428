"""
Gradient inversion where it must succeed, the scale of updates of several steps, and PSNR and SSIM against a second
computation.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedtl.audit.attacks.inversion import (
    ObservedUpdate,
    gradient_multiplicity,
    infer_labels,
    invert,
    matched,
    mean_gradient,
    psnr,
    ssim,
)
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.messages import Task
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.training.batches import to_inputs
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

SHAPE = (1, 8, 8)


def crossed(training, rows, method="fedavg"):
    """The update of a silo with this many rows after one round without privacy, on a net whose statistics are constants."""
    trainer = Trainer(
        with_private_norms(model_spec("mlp", SHAPE, 0)),
        replace(METHODS[method](), exact_statistics="never"),
        training,
    )
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (rows, *SHAPE), dtype=torch.uint8, generator=generator)
    y = torch.randint(10, (rows,), generator=generator)
    data = SiloDataset(Dataset(x, y), Dataset(x[:0], y[:0]), tuple("0123456789"))
    shared, local = trainer.partition.split(trainer.initial(10))
    update = trainer.fit(Silo("a", data, dict(local), b""), Task("s", 1, 1, 0, shared))
    steps = training.epochs * -(-rows // training.batch_size)
    return trainer, ObservedUpdate(shared, update.delta, local, rows, steps, 10, SHAPE), data


def true_gradient(trainer, update, data):
    net = trainer.net(10)
    net.load_state_dict(trainer.partition.join(update.shared, update.local))
    weights = dict(net.named_parameters())
    found = torch.autograd.grad(
        F.cross_entropy(net(to_inputs(data.train.x, trainer.device)), data.train.y), list(weights.values())
    )
    return dict(zip(weights, found, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("epochs", [1, 6])
def test_several_local_steps_are_scaled_to_one_gradient(momentum, epochs):
    """With a small learning rate every step has the same gradient, which must be recovered: direction and length."""
    trainer, update, data = crossed(
        TrainingConfig(lr=1e-4, momentum=momentum, epochs=epochs, batch_size=8), 8
    )
    truth = true_gradient(trainer, update, data)
    found = mean_gradient(trainer, update, list(truth))
    assert found.keys() == truth.keys()
    a, b = (torch.cat([state[name].flatten() for name in sorted(state)]) for state in (found, truth))
    assert float((a - b).norm() / b.norm()) < 0.03
    assert gradient_multiplicity(trainer.training, epochs) == pytest.approx(
        sum(momentum ** (t - s) for t in range(epochs) for s in range(t + 1))
    )


def test_one_image_is_found_and_its_label_too():
    trainer, update, data = crossed(TrainingConfig(lr=0.01, momentum=0.0, batch_size=2), 1)
    x, known = invert(trainer, update, 8, 300, 0)
    assert known.tolist() == data.train.y.tolist()
    original = (to_inputs(data.train.x, trainer.device).double().numpy() + 1) / 2
    guess = (x.double().numpy() + 1) / 2
    assert psnr(guess, original) > 20 > psnr(np.full_like(original, 0.5), original)
    assert ssim(guess[0], original[0]) > 0.8


def test_labels_of_a_batch_are_counted_where_the_head_is_shared_and_not_where_it_stays():
    trainer, update, data = crossed(TrainingConfig(lr=1e-3, momentum=0.0, epochs=3, batch_size=12), 12)
    names = [name for name, _ in trainer.net(10).named_parameters()]
    found = infer_labels(update, mean_gradient(trainer, update, names), trainer.net(10))
    assert torch.minimum(found.bincount(minlength=10), data.train.y.bincount(minlength=10)).sum() >= 10
    trainer, update, data = crossed(TrainingConfig(lr=1e-3, momentum=0.0, batch_size=12), 12, "fedtl")
    assert infer_labels(update, mean_gradient(trainer, update, names), trainer.net(10)) is None


def test_ssim_is_its_formula_window_by_window_and_psnr_is_too():
    rng = np.random.default_rng(0)
    a = rng.random((1, 12, 16))
    b = np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1)
    values = []
    for i in range(12 - 6):
        for j in range(16 - 6):
            u, v = (image[0, i : i + 7, j : j + 7].ravel() for image in (a, b))
            (va, cov), (_, vb) = np.cov(u, v)
            left = (2 * u.mean() * v.mean() + 1e-4) / (u.mean() ** 2 + v.mean() ** 2 + 1e-4)
            values.append(left * (2 * cov + 9e-4) / (va + vb + 9e-4))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-9)
    assert ssim(a, a) == pytest.approx(1.0)
    assert psnr(a, b) == pytest.approx(-20 * np.log10(np.linalg.norm(a - b) / np.sqrt(a.size)))


def test_each_guess_is_matched_with_one_original():
    rng = np.random.default_rng(0)
    originals = rng.random((5, 1, 8, 8))
    order, found = matched(originals[[3, 0]] + 0.01, originals)
    assert order == [3, 0]
    assert (found == originals[[3, 0]]).all()
