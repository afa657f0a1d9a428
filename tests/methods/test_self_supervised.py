"""The losses that learn without labels against their formulas in numpy, what they move, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from fedtl.data.dataset import Dataset
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.few_labels import check_unlabelled
from fedtl.methods.base import trains_on_all_rows
from fedtl.methods.denoise import AddNoise, errors
from fedtl.methods.label_free import made_with_labels, without_labels
from fedtl.methods.losses import Batch, Forward, Pass, PerBatch
from fedtl.methods.masked import Mask, Masked
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS, SELF_SUPERVISED, TERMS
from fedtl.methods.scarf import info_nce
from fedtl.methods.sharing import silobn
from fedtl.methods.simclr import nt_xent
from fedtl.methods.vicreg import VICReg, covariance, spread
from fedtl.methods.views import TwoViews, corrupted
from fedtl.models.roles import Role
from fedtl.training.at_home import tuned_model
from fedtl.training.batches import draw_batches
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import by_role, data_of, federate, mlp, moved, same, silo_at, task_for

CONTRASTIVE = [name for name, term in SELF_SUPERVISED.items() if issubclass(term, PerBatch)]
SMALL = TrainingConfig(lr=0.02, batch_size=16)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosines(a, b):
    a, b = (z.numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in (a, b))
    return a @ b.T


def test_nt_xent_is_the_papers_sum_over_all_views():
    one, other, t = drawn(5, 3), drawn(5, 3, seed=1), 0.3
    s, total = cosines(torch.cat([one, other]), torch.cat([one, other])) / t, 0.0
    for i in range(10):
        others = [k for k in range(10) if k != i]
        total += logsumexp(s[i, others]) - s[i, (i + 5) % 10]
    assert float(nt_xent(one, other, t)) == pytest.approx(total / 10, rel=1e-12)


def test_info_nce_compares_a_row_with_all_copies():
    one, other, t = drawn(6, 4), drawn(6, 4, seed=1), 0.7
    s = cosines(one, other) / t
    wanted = np.mean([logsumexp(s[i]) - s[i, i] for i in range(6)])
    assert float(info_nce(one, other, t)) == pytest.approx(wanted, rel=1e-12)


class Fixed:
    """A model whose features are given, and whose modules are identities."""

    def __init__(self, features, aux):
        self.features, self.aux = features, aux

    def run(self, x):
        return Pass(self.features, self.features)


def out_of(features, x, aux):
    return Forward(Batch(x, torch.full((len(x),), -1), torch.zeros(len(x))), Fixed(features, aux))


def test_vicreg_has_the_three_parts_of_its_paper():
    one, other = drawn(7, 3), 0.4 * drawn(7, 3, seed=1)
    a, b = one.numpy(), other.numpy()
    near = ((a - b) ** 2).mean()
    spreads = [np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() for z in (a, b)]
    products = [np.cov(z.T) for z in (a, b)]
    covariances = [sum(c[i, j] ** 2 for i in range(3) for j in range(3) if i != j) / 3 for c in products]
    assert [float(spread(z)) for z in (one, other)] == pytest.approx(spreads, rel=1e-9)
    assert [float(covariance(z)) for z in (one, other)] == pytest.approx(covariances, rel=1e-9)
    out = out_of(torch.cat([one, other]), torch.zeros(7, 4), {"vicreg": nn.Identity()})
    wanted = 25 * near + 25 * sum(spreads) / 2 + 1 * sum(covariances)
    assert 5 * float(VICReg().loss(out)) == pytest.approx(wanted, rel=1e-9)
    assert float(VICReg().loss(out_of(one[:2], torch.zeros(1, 4), {"vicreg": nn.Identity()}))) == 0


def test_scarf_changes_a_share_of_each_row_to_values_of_the_same_column():
    torch.manual_seed(0)
    x = torch.arange(40.0 * 10).view(40, 10)  # every value tells its column and its row
    changed = corrupted(x, 0.6)
    assert torch.equal(changed % 10, x % 10)
    count = (changed != x).sum(1)
    assert int(count.max()) <= 6
    # Of 6 drawn entries each is its own row's value with probability 1/40: mean 5.85, standard error 0.06.
    assert float(count.double().mean()) == pytest.approx(6 * 39 / 40, abs=0.25)
    assert (changed != x).double().mean(0).std() < 0.12  # every column alike: 0.585 with standard error 0.078
    assert len({int(v) // 10 for v in changed[changed != x]}) > 30  # values of all rows
    assert torch.equal(corrupted(x, 0.0), x)


@pytest.mark.parametrize(
    ("hide", "shape", "units"), [("patches", (7,), 7), ("frames", (2, 6, 10), 10), ("patches", (3, 8, 10), 6)]
)
def test_a_mask_hides_a_share_of_whole_columns_frames_or_patches(hide, shape, units):
    mask = Mask(0.4, hide)
    for module in (mask, mask.eval()):
        hidden = module(torch.zeros(30, *shape))
        assert set(hidden.unique().tolist()) == {0.0, 1.0}
        if len(shape) == 1:
            by_unit = hidden
        elif hide == "frames":
            assert torch.equal(hidden, hidden[:, :1, :1].expand_as(hidden))
            by_unit = hidden[:, 0, 0]
        else:
            corners = hidden[:, 0, ::4, ::4]
            whole = corners.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :8, :10]
            assert torch.equal(hidden, whole[:, None].expand_as(hidden))
            by_unit = corners.flatten(1)
        assert by_unit.shape[1] == units
        assert by_unit.sum(1).unique().tolist() == [round(0.4 * units)]
    assert len(mask.train()(torch.zeros(30, *shape)).flatten(1).unique(dim=0)) > 3


def test_a_masked_loss_counts_hidden_entries_only():
    x, rebuilt = drawn(4, 5), drawn(4, 5, seed=1)
    hidden = torch.tensor([[1.0, 0, 0, 1, 0]]).expand(4, -1).double()
    aux = {"masked_mask": lambda x: hidden, "masked": lambda features: features}
    seen = []

    class Watched(Fixed):
        def run(self, x):
            seen.append(x)
            return super().run(x)

    out = replace(out_of(rebuilt, x, aux), model=Watched(rebuilt, aux))
    values = Masked(weight=2.0).losses(out)
    e = np.abs((rebuilt - x).numpy())[:, [0, 3]]
    np.testing.assert_allclose(values, 2 * np.where(e < 1, e**2 / 2, e - 0.5).mean(1), rtol=1e-12)
    assert torch.equal(seen[0], x * (1 - hidden))


def test_errors_are_those_of_huber_and_noise_has_its_law():
    x, rebuilt = drawn(3, 2, 4), 3 * drawn(3, 8, seed=1)
    e = np.abs(rebuilt.numpy() - x.flatten(1).numpy())
    np.testing.assert_allclose(errors(rebuilt, x), np.where(e < 1, e**2 / 2, e - 0.5), rtol=1e-12)
    torch.manual_seed(0)
    many = torch.ones(200, 100)
    assert float((AddNoise("gaussian", 0.5)(many) - 1).std()) == pytest.approx(0.5, abs=0.01)
    zeros = AddNoise("zeros", 0.3)(many)
    assert set(zeros.unique().tolist()) == {0.0, 1.0}
    assert float((zeros == 0).double().mean()) == pytest.approx(0.3, abs=0.015)
    assert torch.equal(AddNoise("zeros", 0.3).eval()(many), many)


def test_views_of_images_are_cut_out_mirrored_and_brightened_row_by_row():
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 16).expand(50, 1, 16, 16).contiguous()  # grows from left to right
    still = TwoViews.view(VICReg(crop=1.0, jitter=0.0), ramp)
    assert torch.allclose(still[:, :, :, 4:12].diff(dim=3), ramp[:, :, :, 4:12].diff(dim=3), atol=0.06)
    cut = VICReg(crop=0.25, jitter=0.0).view(ramp)
    slope = cut[:, 0, 8, 10] - cut[:, 0, 8, 6]
    assert bool((slope > 0).all())
    assert float(slope.std()) > 0.02  # each row has its own rectangle
    assert bool((cut.amin() >= -1) & (cut.amax() <= 1))
    for image in (
        ramp,
        ramp.mT,
    ):  # a rectangle may be at any place, so its mean is on both sides of the whole image's
        means = VICReg(crop=0.25, jitter=0.0).view(image).mean((1, 2, 3))
        assert float(means.min()) < -0.15
        assert float(means.max()) > 0.15
    mirrored = VICReg(crop=0.25, jitter=0.0, mirror=True).view(ramp)
    assert 10 < int((mirrored[:, 0, 8, 10] < mirrored[:, 0, 8, 6]).sum()) < 40
    flat = torch.zeros(200, 1, 4, 4)
    shift = VICReg(jitter=0.3).view(flat)[:, 0, 0, 0]
    assert float(shift.abs().max()) <= 0.3
    assert float(shift.std()) == pytest.approx(0.6 / 12**0.5, abs=0.03)


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_rounds_move_the_body_and_not_the_head_and_see_no_label(name):
    trainer = Trainer(mlp(), METHODS[name](head_epochs=2), SMALL)
    data = data_of(1, 24, one_domain=True)
    silo, task = silo_at(trainer, data=data), task_for(trainer, silo_at(trainer, data=data))
    other = replace(data, train=Dataset(data.train.x, 2 - data.train.y))
    update = trainer.fit(silo, task)
    changed = {key for key, delta in update.delta.items() if delta.any()}
    assert changed >= by_role(trainer, Role.BODY)
    assert changed & by_role(trainer, Role.AUX)
    first = trainer.partition.split(trainer.initial(3))[1]
    assert not any(key.startswith("head.") for key in moved(first, silo.local))
    assert update.weight == 24 + 12
    flipped = silo_at(trainer, data=other)
    assert same(trainer.fit(flipped, task).delta, update.delta)
    after = tuned_model(trainer, silo, replace(task, round=5))
    assert not torch.equal(after["head.weight"], first["head.weight"])


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_training_lowers_the_loss(name):
    torch.manual_seed(0)
    trainer = Trainer(mlp(), METHODS[name](), TrainingConfig(lr=0.05, batch_size=30))
    hidden, noise = torch.randn(60, 1), 0.1 * torch.randn(60, 4)  # each column tells the others
    rows = data_of(1, 60, target=False)
    silo = silo_at(trainer, data=replace(rows, train=Dataset(hidden + noise, rows.train.y)))
    (term,), data = trainer.method.phases[0].objective, silo.data.train
    before = trainer.initial(3)
    after = federate(trainer, [silo], 8)[-1].after.shared | silo.local

    def loss(state):
        torch.manual_seed(0)  # of the changes that it draws
        out = Forward(Batch(data.x, data.y, torch.zeros(60)), trainer._weights(state, 3).model())
        return float(term.loss(out) if isinstance(term, PerBatch) else term.losses(out).mean())

    with torch.no_grad():
        assert loss(after) < 0.95 * loss(before)


def test_an_epoch_passes_once_over_rows_with_and_without_labels():
    data, generator = data_of(1, 23), torch.Generator().manual_seed(0)
    batches = list(draw_batches(data, 2, 8, generator, True, True))
    assert sorted(torch.cat([rows for rows, _ in batches]).tolist()) == sorted([*range(23)] * 2)
    assert sorted(torch.cat([rows for _, rows in batches]).tolist()) == sorted([*range(12)] * 2)
    assert all(len(rows) + len(others) >= 2 for rows, others in batches)
    assert any(len(rows) and len(others) for rows, others in batches)
    none = replace(data, train=data.train.take(torch.arange(0)))
    assert sum(len(others) for _, others in draw_batches(none, 1, 8, generator, True, True)) == 12
    assert (data.rows_in_epoch(True), data.rows_in_epoch(False), none.rows_in_epoch(False)) == (35, 23, 12)


def test_a_silo_without_labels_needs_a_head_that_the_others_share():
    own, shared = METHODS["scarf"](), METHODS["scarf"](head="shared")
    assert trains_on_all_rows(own)
    assert (made_with_labels(own), without_labels(own)) == ({Role.HEAD}, "needs labels")
    assert not made_with_labels(shared)
    trainer = Trainer(mlp(), shared, SMALL)
    data = data_of(2, 20)
    unlabelled = silo_at(trainer, data=replace(data, train=data.train.take(torch.arange(0)), one_domain=True))
    task = task_for(trainer, unlabelled)
    for silo, moves in ((silo_at(trainer), True), (unlabelled, False)):
        delta = trainer.fit(silo, task).delta
        assert bool(delta["head.weight"].any()) == moves
        assert delta["body.features.1.weight"].any()


def test_the_refusal_says_that_the_head_can_be_shared():
    sets = ["data.unlabelled=['plain']", "method.name=scarf"]
    for head in ("own", "shared"):
        experiment = load_experiment("digits", [*sets, f"method.head={head}"])
        method = method_of(experiment.method)
        if head == "own":
            with pytest.raises(ConfigError, match="method.head"):
                check_unlabelled(experiment, method, ["plain", "faint"])
        else:
            check_unlabelled(experiment, method, ["plain", "faint"])


def test_a_module_can_stay_at_the_silo():
    for share in (True, False):
        trainer = Trainer(mlp(), METHODS["denoise"](share_module=share), SMALL)
        assert trainer.partition.leaves("aux.denoise.0.weight") == share
        assert trainer.partition.leaves("body.features.1.weight")


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_as_a_term_it_sees_rows_without_labels_too(name):
    """Of a method with labels, at a silo that has none."""
    trainer = Trainer(mlp(), silobn().plus(TERMS[name]()), SMALL)
    data = data_of(2, 20)
    silo = silo_at(trainer, data=replace(data, train=data.train.take(torch.arange(0)), one_domain=True))
    delta = trainer.fit(silo, task_for(trainer, silo)).delta
    assert delta["body.features.1.weight"].any()
    assert not delta["head.weight"].any()


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_privacy_takes_losses_of_single_rows_and_refuses_the_others(name):
    problems = list(private_problems(METHODS[name]()))
    assert bool(problems) == (name in CONTRASTIVE)
    assert all("several examples" in problem for problem in problems)


def test_the_refusal_comes_before_rows_are_read():
    with pytest.raises(ConfigError, match="SimCLR"):
        load_experiment("digits", ["method.name=simclr", "privacy.epsilon=3"])
    load_experiment("digits", ["method.name=masked", "privacy.epsilon=3"])
