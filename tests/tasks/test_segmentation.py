"""Segmentation: its loss against torch, its metrics against numpy image by image, its masks, and a run with a verdict."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fedtl._util.labels import NO_LABEL
from fedtl.data.input_files import read_inputs
from fedtl.data.labels import label_numbers
from fedtl.data.prepare import read_silo
from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError, DataError
from fedtl.experiment import uncertainty
from fedtl.experiment.compare import compare
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.config.privacy_checks import unsound
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.predicted_masks import write_masks
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.privacy.per_sample.clipping import by_row, choose_gradient_method, clipped
from fedtl.tasks.row_metrics import Answers
from fedtl.tasks.segmentation import Segmentation
from fedtl.training.metrics import measure

TASK = Segmentation(("none", "liver", "lesion"))
BLOBS = {"task": "segmentation", "classes": ["background", "blob"], "mask_values": [0, 255]}


def masks_of(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, 3, 6, 5, generator=generator)
    y = torch.randint(3, (count, 6, 5), generator=generator).to(torch.int16)
    y[0], y[1, :2] = 0, NO_LABEL
    scores[0, 0] = 9.0  # an image without any class but the background, in the mask and the prediction
    return scores, y


def test_the_loss_is_the_cross_entropy_of_torch():
    scores, y = masks_of()
    each = F.cross_entropy(scores, y.long(), ignore_index=NO_LABEL, reduction="none")
    wanted = [one[mask != NO_LABEL].mean() for one, mask in zip(each, y, strict=True)]
    torch.testing.assert_close(TASK.losses(scores, y), torch.stack(wanted))


def test_the_dice_loss_is_that_of_numpy():
    scores, y = masks_of()
    p, wanted = scores.softmax(1).numpy(), []
    for own, mask in zip(p, y.numpy(), strict=True):
        known = mask != NO_LABEL
        shares = []
        for c in (1, 2):
            a, b = own[c][known], mask[known] == c
            shares.append((2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1))
        wanted.append(1 - np.mean(shares))
    plain = TASK.losses(scores, y)
    found = Segmentation(TASK.labels, dice=0.25).training_losses(scores, y)
    np.testing.assert_allclose((found - 0.75 * plain) / 0.25, wanted, rtol=1e-4)


def test_dice_is_the_mean_over_images_and_then_over_classes():
    scores, y = masks_of()
    found, classes = measure(scores, y, TASK).figures, []
    chosen = scores.argmax(1).numpy()
    for c in (1, 2):
        each = []
        for guess, mask in zip(chosen, y.numpy(), strict=True):
            a, b = (mask == c), (guess == c) & (mask != NO_LABEL)
            if a.sum() + b.sum():
                each.append(2 * (a & b).sum() / (a.sum() + b.sum()))
        classes.append(np.mean(each))
        assert len(each) == 11  # the first image has none of them
    assert found["dice"] == pytest.approx(np.mean(classes))
    right = [(g == m)[m != NO_LABEL].mean() for g, m in zip(chosen, y.numpy(), strict=True)]
    assert found["pixel_accuracy"] == pytest.approx(np.mean(right))
    nothing = measure(scores[:1], y[:1], TASK)
    assert "liver or lesion" in nothing.absent["dice"]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_an_image_is_clipped_by_its_own_gradient(norm):
    settings = {"width": 8, "depth": 1, "norm": norm}
    net = with_private_norms(model_spec("unet", (1, 6, 6), 0, settings=settings)).net(3).train()
    generator, rows = torch.Generator().manual_seed(0), torch.arange(5)
    x, y = torch.randn(5, 1, 6, 6, generator=generator), torch.randint(3, (5, 6, 6), generator=generator)
    task = Segmentation(TASK.labels, dice=0.5)

    def losses(net, rows):
        return task.training_losses(net(x[rows]), y[rows])

    chosen = choose_gradient_method(net, rows, losses, 0.5)
    found, wanted = (clipped(method, net, rows, losses, 0.5) for method in (chosen, by_row))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def experiment(data=BLOBS, **others):
    return parse_experiment(
        {"data": {"source": "memory", "silos": ["a"], **data}, "model": {"name": "unet"}, **others}
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"task": "segmentation"}, "needs the classes"),
        (BLOBS | {"mask_values": [0]}, "a different number"),
        (BLOBS | {"mask_void": 255}, "mask_void = 255"),
        ({"mask_void": 255}, "data.mask_void is a setting"),
        (BLOBS | {"kind": "volumes"}, "masks of images"),
        (BLOBS | {"unlabelled": ["a"]}, "data.unlabelled is set"),
    ],
)
def test_settings_that_contradict_it_are_refused(data, words):
    with pytest.raises(ConfigError, match=words):
        experiment(data)


@pytest.mark.parametrize("method", ["moon", "ridge", "fedproto", "shot", "feddf"])
def test_methods_with_one_score_a_row_are_refused(method):
    with pytest.raises(ConfigError, match=f"method '{method}'"):
        experiment(method={"name": method})


def test_it_is_sound_under_privacy():
    assert not list(unsound(experiment(privacy={"epsilon": 3.0}, method={"name": "fedtl"})))


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_pictures_and_masks_are_read_in_pairs(tmp_path):
    rng, x, y = np.random.default_rng(0), [], []
    for number in range(6):
        x.append(rng.integers(0, 255, (8, 10), np.uint8))
        y.append((rng.random((8, 10)) < 0.3) * np.uint8(255))
        picture(tmp_path / "a" / "images" / f"{number}.png", x[-1])
        picture(tmp_path / "a" / "masks" / f"{number}.png", y[-1])
    (tmp_path / "a" / "masks" / "notes.txt").write_text("")
    settings = experiment(BLOBS | {"source": "images", "path": str(tmp_path)}).data
    raw = read_silo(settings, "a")
    np.testing.assert_array_equal(raw.train.x, x)
    np.testing.assert_array_equal(raw.train.y, y)
    np.testing.assert_array_equal(label_numbers(raw.train.y, (), settings), np.array(y) // 255)
    assert len(raw.unread) == 1
    half = read_silo(settings.model_copy(update={"size": 4}), "a")
    assert half.train.y.shape == (6, 4, 4)
    assert set(np.unique(half.train.y)) == {0, 255}
    odd = (np.array(y[0]) // 255).astype(np.uint8)
    picture(tmp_path / "a" / "masks" / "0.png", odd)
    with pytest.raises(DataError, match="one of 0, 255"):
        read_silo(settings, "a")
    picture(tmp_path / "a" / "masks" / "0.png", odd[:4])
    with pytest.raises(DataError, match="10 x 4 px"):
        read_silo(settings, "a")
    picture(tmp_path / "a" / "masks" / "0.png", np.stack([odd] * 3, 2))
    with pytest.raises(DataError, match="kind RGB"):
        read_silo(settings, "a")
    (tmp_path / "a" / "masks" / "0.png").unlink()
    with pytest.raises(DataError, match="images/0 has no"):
        read_silo(settings, "a")


def test_pixels_of_unknown_class_have_no_label():
    settings = DataSettings(task="segmentation", classes=["a", "b"], mask_void=9)
    assert label_numbers(np.array([[[0, 1], [9, 1]]]), (), settings).tolist() == [[[0, 1], [NO_LABEL, 1]]]


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """Two silos with bright squares on a dark ground."""
    folder, rng = tmp_path_factory.mktemp("blobs"), np.random.default_rng(0)
    for silo in "ab":
        x, y = rng.integers(0, 90, (24, 8, 8)), np.zeros((24, 8, 8), np.uint8)
        for image, mask in zip(x, y, strict=True):
            top, left = rng.integers(0, 5, 2)
            mask[top : top + 4, left : left + 4] = 255
            image += mask // 2
        np.savez(folder / f"{silo}.npz", train_x=x.astype(np.uint8), train_y=y)
    return folder


def of_blobs(folder, **others):
    small = {"name": "unet", "settings": {"width": 4, "depth": 1}}
    return parse_experiment(
        {
            "data": BLOBS | {"source": "npz", "path": str(folder)},
            "model": small,
            "engine": {"name": "serial"},
            "rounds": 2,
            "train": {"batch_size": 8, "lr": 0.1},
            "method": {"name": "fedbn", "tune": {"epochs": 0}, "choose": {"candidates": ["tuned"]}},
            **others,
        }
    )


@pytest.mark.slow
def test_a_run_predicts_masks(blobs, tmp_path):
    train = {"batch_size": 8, "lr": 0.1}
    plan = of_blobs(blobs, train={**train, "augment": [{"name": "flip"}, {"name": "shift", "pixels": 1}]})
    folder = RunFolder.create(tmp_path / "run", plan)
    result = run(plan, folder)
    assert {"dice", "pixel_accuracy", "loss"} <= result.silos["a"].measured.figures.keys()
    model = SiloModel(folder, "a")
    np.save(tmp_path / "new.npy", np.load(blobs / "a.npz")["train_x"][:3])
    x = read_inputs(tmp_path / "new.npy", plan.data, model.inputs, model.shape).x
    scores = model.scores(x)
    assert write_masks(model, scores, (), tmp_path / "masks") == 3
    for number, one in enumerate(scores.argmax(1).numpy()):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"masks/{number}.png")), 255 * one)
    shares = [row["share(blob)"] for row in model.task.answers(scores, ())]
    np.testing.assert_allclose(shares, scores.argmax(1).numpy().mean((1, 2)))
    with pytest.raises(ConfigError, match="mask still states"):
        run(
            of_blobs(blobs, train={**train, "augment": [{"name": "erase"}]}),
            RunFolder.create(tmp_path / "erase", plan),
        )
    with pytest.raises(ConfigError, match="scores for each pixel"):
        run(of_blobs(blobs, model={"name": "convnet"}), RunFolder.create(tmp_path / "other", plan))


def test_the_interval_of_dice_leaves_one_image_out():
    scores, y = masks_of()
    one = Answers(scores.double().numpy(), y.numpy(), np.arange(len(y)), task=TASK)
    left = [measure(scores[kept], y[kept], TASK).figures["dice"] for kept in 1 - torch.eye(len(y)).long() > 0]
    wanted = (len(y) - 1) / len(y) * np.square(left - np.mean(left)).sum()
    assert uncertainty.measure("dice", [one], "a").blocks[0].variance == pytest.approx(wanted)


@pytest.mark.slow
def test_a_comparison_has_a_verdict_by_dice(blobs, tmp_path):
    plan = of_blobs(blobs, compare={"methods": ["local", "fedbn"], "metric": "dice", "seeds": [0]}, rounds=1)
    compare(plan, RunFolder.create(tmp_path / "out", plan), 1, "cpu")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["methods"]["fedbn"]["a"]["dice"]["ci95"]
    assert found["benefit"]["a"]["verdict"] in ("gains", "loses", "unclear")
