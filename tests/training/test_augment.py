"""Random changes of training images: what each does, and that a row's change depends on its address alone."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fedtl._util.labels import NO_LABEL
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import ConfigError
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec
from fedtl.simulation.stackable import why_not_stackable
from fedtl.training.augment import CHANGES, Blur, Crop, Erase, Flip, Jitter, Rotate, Shift, augmenter
from fedtl.training.config import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import same, silo_at, task_for

PIXELS = torch.randint(1, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(6)
ALL = tuple(make() for make in CHANGES.values())


def changed(changes, x=PIXELS, rows=ROWS, step=0, at=(0, 1, "a", 0), key=b"s"):
    y = torch.arange(len(x))
    make = augmenter(changes, Dataset(x, y), at, key)
    assert make is not None
    found, labels = make(x, y, rows, step)
    assert torch.equal(labels, y)
    return found


def test_what_each_change_does():
    assert torch.equal(changed((Flip(1.0),)), PIXELS.flip(3))
    assert torch.equal(changed((Flip(1.0, vertical=True),)), PIXELS.flip(2))
    assert torch.equal(changed((Flip(0.0),)), PIXELS)
    padded = torch.nn.functional.pad(PIXELS, (2, 2, 2, 2))
    for row, one in enumerate(changed((Shift(2),))):
        moved = [padded[row, :, top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
        assert any(torch.equal(one, other) for other in moved)
    erased = torch.cat([changed((Erase(0.5),), step=step) for step in range(4)]).eq(0).all(1)
    assert 0.2 < erased.any((1, 2)).float().mean() < 0.8  # half of the images
    assert erased.float().mean((1, 2)).max() <= 0.5 + 1 / 8
    flat = torch.full((4, 1, 8, 8), 7, dtype=torch.uint8)
    for kind in (Crop(0.3), Blur(0.5)):
        assert torch.equal(changed((kind,), flat, torch.arange(4)), flat)
    one = changed((Jitter(0.5, 0.0),), flat * 10, torch.arange(4)).float()
    assert one.std((1, 2, 3)).max() == 0
    assert 35 <= one.min() < one.max() <= 105
    assert torch.equal(changed((Rotate(1e-6),)), PIXELS)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_row_is_changed_alike_in_any_batch_and_otherwise_in_another_step(kind):
    changes = ALL if kind == torch.uint8 else tuple(one for one in ALL if not one.only_pixels)
    x = PIXELS.to(kind)
    state = torch.get_rng_state()
    whole = changed(changes, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert (whole.dtype, whole.shape) == (kind, x.shape)
    alike = changed(changes, x[:1].repeat(6, 1, 1, 1))
    assert not any(torch.equal(one, other) for one, other in pairwise(alike))  # each row draws for itself
    some = torch.tensor([4, 1])
    assert torch.equal(changed(changes, x[some], some), whole[some])
    others = [
        {"step": 1},
        {"at": (0, 2, "a", 0)},
        {"at": (0, 1, "b", 0)},
        {"at": (1, 1, "a", 0)},
        {"key": b"t"},
    ]
    assert not any(torch.equal(changed(changes, x, **other), whole) for other in others)


@pytest.mark.parametrize("kind", [Flip(0.5), Flip(0.5, vertical=True), Shift(3), Crop(0.3), Rotate(90.0)])
def test_a_mask_moves_with_its_image(kind):
    """The image holds 50 more than the class of each pixel, which no interpolation blurs where its neighbours are of the same class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (20, 4, 4), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    y = y.to(torch.int16)
    x, rows = (50 * (y[:, None] + 1)).to(torch.uint8), torch.arange(20)
    alone = changed((kind, Blur(0.2), Jitter(0.0, 0.0)), x, rows)
    make = augmenter((kind, Blur(0.2), Jitter(0.0, 0.0)), Dataset(x, y), (0, 1, "a", 0), b"s")
    moved, masks = make(x, y, rows, 0)
    assert torch.equal(moved, alone)  # what an image becomes does not depend on its mask
    assert (type(moved), type(masks), masks.dtype) == (Tensor, Tensor, torch.int16)
    assert (masks != y).any((1, 2)).float().mean() > 0.2
    level = moved[:, 0].float() / 50 - 1
    flat = (level - level.round()).abs() < 0.05  # not at an edge
    assert flat.float().mean() > 0.5
    assert (level.round()[flat] == masks[flat]).float().mean() > 0.97
    outside = masks == NO_LABEL
    assert outside.any() == isinstance(kind, Shift | Rotate)
    assert (moved[:, 0][outside] > 50).sum() <= 0.1 * outside.sum()  # nothing, or an edge


def images(n):
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(256, (n, 1, 8, 8), generator=generator).to(torch.uint8)
    return Dataset(x, torch.randint(3, (n,), generator=generator))


def updates(training, rows=None):
    trainer = Trainer(
        model_spec("convnet", (1, 8, 8), 0, settings={"widths": (4, 4, 4)}), METHODS["fedavg"](), training
    )
    silo = silo_at(trainer, data=SiloDataset(rows or images(20), images(10), ("a", "b", "c")))
    return trainer.fit(silo, task_for(trainer, silo)), silo


PLAIN = TrainingConfig(batch_size=8, epochs=2)


def test_training_sees_changed_images_and_validation_does_not():
    flipped, plain = replace(PLAIN, augment=(Flip(1.0),)), images(20)
    (one, silo), (other, _) = updates(flipped), updates(PLAIN, Dataset(plain.x.flip(3), plain.y))
    assert same(one.delta, other.delta)  # always flipped: as if the rows were stored so
    assert one.metrics == updates(PLAIN)[0].metrics
    assert torch.equal(silo.data.train.x, plain.x)
    assert same(updates(replace(PLAIN, augment=ALL))[0].delta, updates(replace(PLAIN, augment=ALL))[0].delta)


def test_the_rows_of_a_second_domain_are_changed_too():
    rows, changes = images(12), (Flip(1.0),)
    data = SiloDataset(rows, images(4), ("a", "b", "c"), images(9).x)
    turned = SiloDataset(Dataset(rows.x.flip(3), rows.y), images(4), ("a", "b", "c"), images(9).x.flip(3))
    spec = model_spec("convnet", (1, 8, 8), 0, settings={"widths": (4, 4, 4)})
    found = []
    for training, own in ((replace(PLAIN, augment=changes), data), (PLAIN, turned)):
        trainer = Trainer(spec, METHODS["coral"](), training)
        silo = silo_at(trainer, data=own)
        found.append(trainer.fit(silo, task_for(trainer, silo)).delta)
    assert same(*found)


def test_what_cannot_be_changed_is_refused():
    def rows(x):
        return Dataset(x, torch.zeros(len(x)))

    with pytest.raises(ConfigError, match=r"shape \(4,\)"):
        augmenter((Flip(),), rows(torch.zeros(5, 4)), (), b"")
    with pytest.raises(ConfigError, match="other numbers"):
        augmenter((Jitter(),), rows(PIXELS.float()), (), b"")
    with pytest.raises(ConfigError, match="5 channels"):
        augmenter((Jitter(),), rows(torch.zeros(2, 5, 8, 8, dtype=torch.uint8)), (), b"")
    with pytest.raises(ConfigError, match="mask still states"):
        augmenter((Erase(),), Dataset(PIXELS, torch.zeros(6, 8, 8)), (), b"")
    assert augmenter((), rows(torch.zeros(5, 4)), (), b"") is None
    trainer = Trainer(model_spec("convnet", (1, 8, 8), 0), METHODS["fedavg"](), replace(PLAIN, augment=ALL))
    assert "changed at random" in (why_not_stackable(trainer) or "")
