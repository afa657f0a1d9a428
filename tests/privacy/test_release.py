"""
What one private round of ``Trainer`` releases, measured from outside: each tensor's noise, one record's effect, the
samples, and that an update consists only of noisy sums.
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2, pearsonr
from sklearn.metrics import accuracy_score
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedtl.data import prepare
from fedtl.data.dataset import Dataset
from fedtl.data.settings import DataSettings
from fedtl.privacy import dp_adabn as statistics
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.guarantee import Releases
from fedtl.privacy.noise import Noise
from fedtl.training.batches import to_inputs
from fedtl.training.loop import TrainingConfig
from tests.experiment.private_silos import bench_of, data_of, silo_of, task_of
from tests.privacy.test_dp_adabn import body, inputs, release_of, rows_of
from tests.problems import with_training

STEP = TrainingConfig(batch_size=16, momentum=0.0, lr=1.0)
RARELY = 1e-6  # a chance that each test may fail in a sound mechanism, divided over its comparisons


def moved(trainer, silo, number=1):
    """Return how far one round moved each tensor, [n]; the silo is unchanged."""
    task, own = task_of(trainer, number), replace(silo)
    update, before = trainer.fit_unaccounted(own, task), silo.local
    trained = {name for phase in trainer.method.phases for name in trainer.loop.movable(phase.train)}
    delta = {**update.delta, **{name: own.local[name] - before[name] for name in before}}
    return {name: delta[name].double().flatten().numpy() for name in delta if name in trained}


def private(trainer, folder, data=None, **changes):
    silo = silo_of(trainer, folder, data, clip=0.5)
    others = {key: changes.pop(key) for key in ("canaries", "seed") if key in changes}
    silo.guarantee = replace(with_training(silo.guarantee, **{"steps": (1,), **changes}), **others)
    return silo


def noise_of(trainer, silo, times):
    """Return each tensor's noise [times, n] in standard deviations, in rounds that sample nobody."""
    its = silo.guarantee
    unit = its.expected_batch / (its.training.noise_multiplier * its.training.clip)
    found = [moved(trainer, silo) for _ in range(times)]
    names = dict(trainer.net(3).named_parameters())
    return {name: np.stack([one[name] for one in found]) * unit for name in found[0] if name in names}


def spread_is_one(noise, free):
    p = {name: 2 * min(chi2.cdf(s, free[name]), chi2.sf(s, free[name])) for name, s in noise.items()}
    assert min(p.values()) * len(p) > RARELY, min(p, key=p.get)


@pytest.mark.parametrize("canaries", [False, True])
def test_every_tensor_has_the_guaranteed_noise_if_nobody_is_sampled(canaries, tmp_path):
    trainer = bench_of(training=STEP)
    its = Canaries(40, 1, tmp_path / "canaries") if canaries else None
    silo = private(trainer, tmp_path, sample_rate=1e-9, canaries=its)
    noise = noise_of(trainer, silo, 12)
    assert len(noise) == len(list(trainer.net(3).parameters()))
    spread_is_one({k: float((v**2).sum()) for k, v in noise.items()}, {k: v.size for k, v in noise.items()})
    whole = np.concatenate(list(noise.values()), 1)
    assert abs(float((whole**4).mean()) - 3) < 5 * np.sqrt(96 / whole.size)  # a normal number's fourth moment


def test_every_tensor_has_the_guaranteed_noise_with_records(tmp_path):
    """Every record in every round: what differs between rounds is noise."""
    trainer = bench_of(training=STEP)
    silo = private(trainer, tmp_path, sample_rate=1.0)
    noise = noise_of(trainer, silo, 12)
    squares = {name: float(((v - v.mean(0)) ** 2).sum()) for name, v in noise.items()}
    spread_is_one(squares, {name: 11 * v.shape[1] for name, v in noise.items()})


def test_noise_is_never_repeated_within_or_between_tensors_and_rounds(tmp_path):
    """Pearson's correlation of values and of sizes, between tensors, neighbouring blocks and rounds."""
    trainer = bench_of(training=STEP)
    silo = private(trainer, tmp_path, sample_rate=1e-9)
    noise = noise_of(trainer, silo, 6)
    names = [name for name in noise if noise[name].shape[1] >= 16]
    pairs = []
    for at, name in enumerate(names):
        for other in names[:at]:
            n = min(noise[name].shape[1], noise[other].shape[1])
            pairs.append((noise[name][:, :n], noise[other][:, :n]))
        pairs += [(noise[name][one], noise[name][other]) for one in range(6) for other in range(one)]
    whole = np.concatenate(list(noise.values()), 1)
    pairs += [(whole[:, lag:], whole[:, :-lag]) for lag in (*range(1, 64), 500, 512, 1000)]
    p = [pearsonr(f(a).ravel(), f(b).ravel()).pvalue for a, b in pairs for f in (np.asarray, np.abs)]
    assert min(p) * len(p) > RARELY


def test_each_step_of_a_round_has_new_noise(tmp_path):
    """Four steps of pure noise have twice the deviation of one step: not more, as if it were repeated, and not less."""
    trainer = bench_of(training=STEP)
    silo = private(trainer, tmp_path, sample_rate=1e-9, steps=(4,))
    noise = noise_of(trainer, silo, 8)
    spread_is_one(
        {k: float((v**2).sum()) / 4 for k, v in noise.items()}, {k: v.size for k, v in noise.items()}
    )


# One record


def without_noise(monkeypatch):
    monkeypatch.setattr(Noise, "_grains", lambda self, count, _: torch.zeros(count, dtype=torch.float64))


@pytest.mark.parametrize("clip", [0.5, 1e-3])
@pytest.mark.parametrize("far", [1.0, -40.0])
def test_record_with_large_gradients_everywhere_changes_the_sum_by_one_clip(clip, far, monkeypatch, tmp_path):
    """Compared with the same round without it: a record whose numbers are not finite adds nothing."""
    without_noise(monkeypatch)
    trainer, data = bench_of(training=STEP), data_of(n=24)
    ends = []
    for value in (far, torch.nan):
        x = data.train.x.clone()
        x[5] *= value
        silo = private(
            trainer, tmp_path, replace(data, train=Dataset(x, data.train.y)), sample_rate=1.0, clip=clip
        )
        ends.append(np.concatenate(list(moved(trainer, silo).values())))
    share = np.linalg.norm(ends[0] - ends[1]) * 24 / clip
    assert share == pytest.approx(1.0, rel=2e-3)


# Samples


@contextmanager
def fed(trainer, data):
    """Record the rows that the net gets before each step of an optimizer."""
    rows = {
        to_inputs(row[None], trainer.device).contiguous().numpy().tobytes(): at
        for at, row in enumerate(data.train.x)
    }
    steps, now = [], set()

    def look(_, given):
        now.update(rows.get(x[None].contiguous().numpy().tobytes(), -1) for x in given[0].detach())

    def end(*_):
        steps.append(now - {-1})
        now.clear()

    handles = [trainer.net(3).body.register_forward_pre_hook(look), register_optimizer_step_pre_hook(end)]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def held(trainer, silo, number=1):
    with fed(trainer, silo.data) as steps:
        trainer.fit_unaccounted(replace(silo), task_of(trainer, number))
    return np.array([[row in step for row in range(len(silo.data.train))] for step in steps])


def test_samples_are_poisson_and_new_in_each_step_and_each_run(tmp_path):
    trainer = bench_of()
    silo = private(trainer, tmp_path, steps=(25,))
    rate = silo.guarantee.training.sample_rate
    assert rate == pytest.approx(16 / 60)
    one, other = held(trainer, silo), held(trainer, silo)
    assert one.shape == other.shape == (25, 60)
    for counts, tries in ((one.sum(), one.size), (other.sum(), other.size)):
        assert binom.cdf(counts, tries, rate) > RARELY / 4
        assert binom.sf(counts - 1, tries, rate) > RARELY / 4
    for a, b in ((one, other), (one[:-1:2], one[1::2])):  # the same task again; each step and the next
        assert binom.sf((a & b).sum() - 1, a.size, rate**2) > RARELY
    assert len(set(one.sum(1))) > 3  # sizes vary
    assert (one.sum(0) > 0).sum() > 55  # everybody has a turn: 60 (1 - 0.73^25) = 59.97


def test_sum_is_divided_by_the_expected_batch(monkeypatch, tmp_path):
    without_noise(monkeypatch)
    trainer, data = bench_of(training=STEP), data_of(n=24)
    x = torch.full_like(data.train.x, torch.nan)
    x[3] = data.train.x[3]
    silo = private(
        trainer, tmp_path, replace(data, train=Dataset(x, data.train.y)), sample_rate=1.0, clip=1e-3
    )
    one = np.concatenate(list(moved(trainer, silo).values()))
    assert np.linalg.norm(one) == pytest.approx(1e-3 / 24, rel=1e-2)


@pytest.mark.parametrize("gain", [0.0, 1.0, 50.0])
def test_number_of_steps_does_not_depend_on_rows(gain, tmp_path):
    trainer, data = bench_of(), data_of()
    silo = private(
        trainer, tmp_path, replace(data, train=Dataset(data.train.x.abs() * gain, data.train.y)), steps=(3,)
    )
    assert len(held(trainer, silo)) == 3


def test_no_tensor_depends_on_rows_if_nobody_is_sampled(tmp_path):
    """Exact to the bit, with the same noise twice; the head included."""
    trainer, ends = bench_of(), []
    for data in (data_of(0), data_of(1)):
        ends.append(moved(trainer, private(trainer, tmp_path, data, sample_rate=1e-9, seed=3)))
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


# Statistics


class Answers(Noise):
    """Releases fixed values, whatever the sums are."""

    def __init__(self):
        self.rng, self.totals, self.asked = np.random.default_rng(0), [], []

    def add(self, total, std):
        self.totals.append(total.clone())
        self.asked.append(std)
        return torch.from_numpy(300 * self.rng.standard_normal(len(total))).to(total)


def answered(x):
    net, noise = body(), Answers()
    found = statistics.release_statistics(net, rows_of(x), release_of(net, 1000, 1e-3), noise)
    return found, noise


def test_statistics_depend_only_on_the_noisy_sums():
    """Other rows, the same released sums: the same statistics, to the bit, and the same requested noise."""
    some, others = answered(inputs(40)), answered(inputs(60, gain=90.0, offset=-20.0))
    assert all(torch.equal(some[0][name], others[0][name]) for name in some[0])
    assert some[1].asked == others[1].asked


def test_effect_of_a_record_on_the_statistics_does_not_depend_on_others():
    """The contribution of an extreme row to every sum has the length of the radius, whatever the other rows are."""
    shares = []
    for x in (inputs(40), inputs(60, gain=0.1)):
        far, gone = x.clone(), x.clone()
        far[0], gone[0] = 1e6, torch.nan
        pairs = zip(answered(far)[1].totals, answered(gone)[1].totals, strict=True)
        shares.append([a - b for a, b in pairs])
    for one, other in zip(*shares, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert [float(share.norm()) for share in shares[0]] == pytest.approx(
        [r * c**0.5 for r in (4.0, 1.0) for c in (6, 6, 4, 4)], rel=1e-3
    )


def test_each_sum_of_the_statistics_has_the_requested_noise():
    noises = []

    class Kept(Answers):
        def add(self, total, std):
            released = Noise().add(total, std)
            noises.append((released - total) / std)
            return released

    net, noise = body(), Kept()
    for _ in range(40):
        statistics.release_statistics(net, rows_of(inputs(8)), release_of(net, 1000, 1.0), noise)
    assert len(noises) == 40 * 8  # two radii, two layers, a mean and a scale each
    squares = float(torch.cat(noises).square().sum())
    assert RARELY < chi2.cdf(squares, sum(map(len, noises))) < 1 - RARELY


# The metric, and the rows before the mechanism


def test_accuracy_has_the_guaranteed_noise(tmp_path):
    trainer, data = bench_of(), data_of()
    silo = silo_of(trainer, tmp_path, data, metrics=["accuracy"])
    silo.guarantee = with_training(silo.guarantee, steps=(0,))
    exact = float(
        (trainer.scores(trainer.initial(3), data.val.x, data).argmax(1) == data.val.y).double().mean()
    )
    told = [trainer.fit_unaccounted(replace(silo), task_of(trainer)).metrics["accuracy"] for _ in range(80)]
    squares = (((np.array(told) - exact) / silo.guarantee.releases.accuracy.mean_noise_std) ** 2).sum()
    assert RARELY / 2 < chi2.cdf(squares, 80) < 1 - RARELY / 2


def test_accuracy_with_tiny_noise_equals_scikit_learn(tmp_path):
    trainer, data = bench_of(), data_of()
    silo = silo_of(trainer, tmp_path, data, metrics=["accuracy"])
    quiet = replace(silo.guarantee.releases.accuracy, noise_multiplier=1e-6)
    silo.guarantee = replace(with_training(silo.guarantee, steps=(0,)), releases=Releases(accuracy=quiet))
    guesses = trainer.scores(trainer.initial(3), data.val.x, data).argmax(1)
    right = guesses.clone()
    right[:4] = (right[:4] + 1) % 3
    silo = replace(silo, data=replace(data, val=Dataset(data.val.x, right)))
    wanted = accuracy_score(right, guesses)
    assert wanted == pytest.approx(5 / 9)
    assert trainer.fit_unaccounted(silo, task_of(trainer)).metrics["accuracy"] == pytest.approx(
        wanted, abs=1e-4
    )


def test_one_stored_row_of_pixels_changes_no_other_row():
    settings = DataSettings(source="digits")
    raw = prepare.read_silo(settings, "plain")
    labels = prepare.silo_classes(raw, settings)
    x = raw.train.x.copy()
    x[0] = 255 - x[0]
    some, others = (
        prepare.prepare_silo(one, settings, "plain", 0, labels, frozenset(labels)).data
        for one in (raw, replace(raw, train=replace(raw.train, x=x)))
    )
    changed = sum(
        int((getattr(some, part).x != getattr(others, part).x).flatten(1).any(1).sum())
        for part in ("train", "val")
    )
    assert changed <= 1
