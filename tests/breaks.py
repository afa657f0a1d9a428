"""
Faults of privacy mechanisms, each patched into the running code to see which test and which check of the audit detects it.

``FEDTL_BREAK=name pytest -p tests.breaks tests/test_x.py`` runs a test file with one fault; ``tests/audit/test_breaks.py``
runs the audit with each of them.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fedtl.data import parts, prepare
from fedtl.data.preprocess import Inputs
from fedtl.data.splits import stratified
from fedtl.methods.ridge_sums import Rows
from fedtl.privacy import dp_adabn as statistics
from fedtl.privacy import dp_sgd as mechanism
from fedtl.privacy import dp_summary as summaries
from fedtl.privacy.noise import Noise
from fedtl.privacy.per_sample import clipping as gradients
from fedtl.privacy.per_sample import hooks as engine
from fedtl.training import private
from fedtl.training.batches import to_inputs
from tests.problems import with_training

Patch = Callable[[pytest.MonkeyPatch], None]


# Noise on the model


def _noise(change: Callable[..., list[torch.Tensor]]) -> Patch:
    """``change(noises, optimizer)`` returns what is added to each weight's sum in place of ``noises``."""

    def patch(monkeypatch):
        sound = engine.NoisyOptimizer.add_noise

        def add_noise(self):
            totals = [weight.summed_grad.detach().clone() for weight in self._weights]
            sound(self)
            noises = [weight.grad - total for weight, total in zip(self._weights, totals, strict=True)]
            for weight, total, noise in zip(self._weights, totals, change(noises, self), strict=True):
                weight.grad = total + noise

        monkeypatch.setattr(engine.NoisyOptimizer, "add_noise", add_noise)

    return patch


def _is_canaries(optimizer):
    """Whether each weight is the parameter of the canaries."""
    return [weight.dim() == 2 and weight.shape[0] == 1 for weight in optimizer._weights]


def halved(noises, optimizer):
    return [noise if side else noise / 2 for noise, side in zip(noises, _is_canaries(optimizer), strict=True)]


def none_on_vectors(noises, optimizer):
    return [noise if noise.dim() > 1 else 0 * noise for noise in noises]


def none_on_the_last(noises, optimizer):
    return [*noises[:-1], 0 * noises[-1]]


def repeated_between_layers(noises, optimizer):
    model = [noise for noise, side in zip(noises, _is_canaries(optimizer), strict=True) if not side]
    longest = max(model, key=lambda noise: noise.numel()).flatten()
    return [
        noise if side else longest[: noise.numel()].view_as(noise)
        for noise, side in zip(noises, _is_canaries(optimizer), strict=True)
    ]


def one_stream_for_each_layer(noises, optimizer):
    """Each layer has its own generator with the same seed: values differ, because sizes do, and magnitudes are the same."""
    seed, std = secrets.randbits(48), optimizer.noise_multiplier * optimizer.max_grad_norm
    return [Noise.reproducible(seed).normal(noise.shape, std).to(noise) for noise in noises]


def a_block_over_and_over(noises, optimizer):
    return [
        noise.flatten()[:500].repeat(noise.numel() // 500 + 1)[: noise.numel()].view_as(noise)
        for noise in noises
    ]


def uniform_law(noises, optimizer):
    std = optimizer.noise_multiplier * optimizer.max_grad_norm
    return [
        noise if side else (torch.rand_like(noise) - 0.5) * (12**0.5 * std)
        for noise, side in zip(noises, _is_canaries(optimizer), strict=True)
    ]


def only_when_somebody_is_sampled(noises, optimizer):
    """Half of the noise if a record was sampled, all of it if none was."""
    some = any(weight.summed_grad.any() for weight in optimizer._weights if weight.shape[0] != 1)
    return halved(noises, optimizer) if some else noises


def _antithetic(monkeypatch):
    """Every second step subtracts the noise of the step before, on the model."""
    kept = {}

    def change(noises, optimizer):
        sides = _is_canaries(optimizer)
        last = kept.pop(id(optimizer), None)
        if last is None:
            kept[id(optimizer)] = noises
            return noises
        return [noise if side else -old for noise, old, side in zip(noises, last, sides, strict=True)]

    _noise(change)(monkeypatch)


def _kept_over_rounds(monkeypatch):
    """Every step has the noise of the first step of the process, on the model."""
    kept = {}

    def change(noises, optimizer):
        sides = _is_canaries(optimizer)
        key = tuple(noise.shape for noise, side in zip(noises, sides, strict=True) if not side)
        model = iter(kept.setdefault(key, [n for n, side in zip(noises, sides, strict=True) if not side]))
        return [noise if side else next(model) for noise, side in zip(noises, sides, strict=True)]

    _noise(change)(monkeypatch)


# The clip


def _clipped(change: Callable[..., list[torch.Tensor]]) -> Patch:
    def patch(monkeypatch):
        sound = mechanism.clipped
        monkeypatch.setattr(mechanism, "clipped", lambda *args: change(sound, *args))

    return patch


def per_parameter(sound, take, net, rows, losses, clip, units=None):
    """Each parameter's gradient is clipped separately."""
    norms, _ = gradients.by_hooks(net, rows, losses, units)
    each = []
    for weight in gradients.trainable(net):
        others = [other for other in gradients.trainable(net) if other is not weight]
        for other in others:
            other.requires_grad_(False)
        own_norms, weighted = gradients.by_hooks(net, rows, losses, units)
        for other in others:
            other.requires_grad_(True)
        factors = (clip / (own_norms + 1e-12)).clamp(max=1).where(norms.isfinite(), 0)
        each.append(weighted(factors)[0].nan_to_num(0.0))
    return each


def by_the_mean_norm(sound, take, net, rows, losses, clip, units=None):
    """All records have one factor, computed from the mean norm."""
    norms, weighted = take(net, rows, losses, units)
    return (
        weighted(torch.full_like(norms, float(clip / norms.nan_to_num(0).mean().clamp_min(1e-6))))
        if norms.isfinite().all()
        else sound(take, net, rows, losses, clip, units)
    )


def rows_instead_of_units(sound, take, net, rows, losses, clip, units=None):
    """Each row of a unit is clipped separately."""
    return sound(take, net, rows, losses, clip, None)


def what_is_not_finite_stays(sound, take, net, rows, losses, clip, units=None):
    norms, weighted = take(net, rows, losses, units)
    return weighted((clip / (norms + 1e-6)).clamp(max=1))


def _batch_in_place_of_expectation(monkeypatch):
    """The sum is divided by the number of sampled records."""
    sound = mechanism.Mechanism.step

    def step(self, rows, *rest, **more):
        self._optimizer.expected_batch_size = max(1, len(rows))
        sound(self, rows, *rest, **more)

    monkeypatch.setattr(mechanism.Mechanism, "step", step)


def _head_beside_the_noise(monkeypatch):
    """After the noise, the head is also changed by a function of the first rows."""
    sound = private.train_phase

    def train_phase(loop, weights, silo, *rest):
        sound(loop, weights, silo, *rest)
        with torch.no_grad():
            seen = to_inputs(silo.data.train.x[:8], loop.device).nan_to_num(0.0).mean()
            for weight in weights.net.head.parameters():
                weight += 1e-3 * torch.tanh(seen)

    monkeypatch.setattr(private, "train_phase", train_phase)


# Samples


def _poisson(change) -> Patch:
    def patch(monkeypatch):
        sound = mechanism.poisson
        monkeypatch.setattr(mechanism, "poisson", lambda *args: change(sound, *args))

    return patch


def doubled_rate(sound, count, rate, noise):
    return sound(count, min(1.0, 2 * rate), noise)


def _same_sample_every_step(monkeypatch):
    sound, kept = mechanism.poisson, {}

    def same(count, rate, noise):
        if noise not in kept:
            kept[noise] = sound(count, rate, noise)
        return kept[noise]

    monkeypatch.setattr(mechanism, "poisson", same)


def _from_the_tasks_seed(monkeypatch):
    """The server knows the seed of each phase's samples."""
    kept = {}

    def seeded(count, rate, noise):
        generator = kept.setdefault(id(noise), (noise, torch.Generator().manual_seed(0)))[1]
        return (torch.rand(count, generator=generator, dtype=torch.float64) < rate).nonzero().flatten()

    monkeypatch.setattr(mechanism, "poisson", seeded)


def of_a_fixed_size(sound, count, rate, noise):
    """Each step has exactly the expected number of records."""
    return noise.uniform(count).argsort()[: max(1, round(count * rate))].sort()[0]


# Statistics


class _Changed:
    """Noise whose ``add`` is replaced."""

    def __init__(self, noise, add):
        self.noise, self.add_, self.count = noise, add, 0

    def add(self, total, std):
        self.count += 1
        return self.add_(self.noise, self.count, total, std)


def _statistics(add) -> Patch:
    def patch(monkeypatch):
        sound = statistics.release_statistics

        def refresh(body, rows, release, noise, *rest):
            return sound(body, rows, release, _Changed(noise, add), *rest)

        monkeypatch.setattr(statistics, "release_statistics", refresh)

    return patch


def no_noise_on_scales(noise, number, total, std):
    return noise.add(total, std) if number % 2 else total


def noise_by_the_rows(noise, number, total, std):
    """The standard deviation depends on the sum of the rows."""
    return noise.add(total, std * (1 + float(total.norm()) / (1 + float(total.norm()))))


def _radii_from_the_data(monkeypatch):
    """Rows are clipped to the median norm."""

    def clipped(values, limit):
        values = values.nan_to_num(0.0, 0.0, 0.0)
        norms = values.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return values * (norms.median() / norms).clamp(max=1)

    monkeypatch.setattr(statistics, "clipped", clipped)


def _counted_records(monkeypatch):
    """The mean is over the rows with finite values instead of the declared number."""
    sound = statistics.release_statistics

    def refresh(body, rows, release, noise, *rest):
        finite = sum(int(x.flatten(1).isfinite().all(1).sum()) for x, _ in rows())
        return sound(body, rows, replace(release, units=max(1, finite)), noise, *rest)

    monkeypatch.setattr(statistics, "release_statistics", refresh)


# Summaries


def _summary(add) -> Patch:
    def patch(monkeypatch):
        sound = summaries.noisy_mean

        def noisy_mean(parts, release, noise, *rest):
            return sound(parts, release, _Changed(noise, add), *rest)

        monkeypatch.setattr(summaries, "noisy_mean", noisy_mean)

    return patch


def no_noise(noise, number, total, std):
    return total


def half_noise(noise, number, total, std):
    return noise.add(total, std / 2)


def _rows_of_any_length(monkeypatch):
    """Neither the method nor the mechanism clips the vectors."""
    sound = Rows.__call__
    monkeypatch.setattr(Rows, "__call__", lambda self, *rows: sound(replace(self, clip=0.0), *rows))
    monkeypatch.setattr(summaries, "clipped", lambda values, limit: values.nan_to_num(0.0, 0.0, 0.0))


def _summary_of_counted_rows(monkeypatch):
    """The sum is divided by the number of vectors that are not zero instead of the declared number."""
    sound = summaries.noisy_mean

    def noisy_mean(parts, release, *rest):
        seen = [(vectors, units) for vectors, units in parts]
        count = sum(int(vectors.flatten(1).nan_to_num(0.0).any(1).sum()) for vectors, _ in seen)
        return sound(iter(seen), replace(release, units=max(1, count)), *rest)

    monkeypatch.setattr(summaries, "noisy_mean", noisy_mean)


# The metric


def _metric(change) -> Patch:
    def patch(monkeypatch):
        sound = private.noisy_mean
        monkeypatch.setattr(private, "noisy_mean", lambda *args: change(sound, *args))

    return patch


def exact_metric(sound, values, units, metric, noise):
    return float(values.double().mean())


def third_of_metric_noise(sound, values, units, metric, noise):
    return sound(values, units, replace(metric, noise_multiplier=metric.noise_multiplier / 3), noise)


def metric_of_triple_weight(sound, values, units, metric, noise):
    total = 3 * values.double().nan_to_num(0.0).sum()
    return float(noise.add(total, metric.noise_multiplier) / metric.units)


# Before the mechanism


@dataclass(frozen=True)
class _Centred(Inputs):
    centre: float = 0.0

    def apply(self, x):
        return np.float32(super().apply(x)) / np.float32(255) - np.float32(self.centre)


def _split_by_label(monkeypatch):
    """One record's label decides which other records are trained on."""

    def by_label(part, count, settings, silo, rng):
        return stratified(part.y, count, rng)

    monkeypatch.setattr(parts, "_draw", by_label)


def _mean_of_the_rows(monkeypatch):
    """Inputs are centred by the exact mean of the training rows, as ``data.scale = "silo"`` does for numbers."""

    def learn(x, y, columns, settings, where, *rest):
        return _Centred(settings.size, settings.channels, columns, centre=float(x.astype(float).mean()) / 255)

    monkeypatch.setattr(prepare, "fit_inputs", learn)


def _steps_from_the_rows(monkeypatch):
    """The number of steps depends on the brightness of the rows."""
    sound = private.train_phase

    def train_phase(loop, weights, silo, *rest):
        mean = float(silo.data.train.x.double().nan_to_num(0.0).mean())
        more = tuple(count + (count > 0 and mean > 0) for count in silo.guarantee.training.steps)
        sound(loop, weights, replace(silo, guarantee=with_training(silo.guarantee, steps=more)), *rest)

    monkeypatch.setattr(private, "train_phase", train_phase)


@dataclass(frozen=True)
class Break:
    """``checks`` of the audit that must fail; ``settings`` of the experiment in which they do."""

    patch: Patch
    checks: tuple[str, ...]
    settings: tuple[str, ...] = ()


DP, FIGURE = "privacy.statistics=dp", 'privacy.metrics=["accuracy"]'
RIDGE = ("method.name=ridge", "method.clip=1.0", "method.dims=8")
BREAKS = {
    "noise halved on the model": Break(_noise(halved), ("noise of every tensor", "noise with records")),
    "no noise on norm scales and biases": Break(
        _noise(none_on_vectors), ("noise of every tensor", "tensors without noise")
    ),
    "no noise on the last tensor": Break(
        _noise(none_on_the_last), ("noise of every tensor", "tensors without noise")
    ),
    "noise repeated between layers": Break(_noise(repeated_between_layers), ("noise between tensors",)),
    "one stream for each layer": Break(_noise(one_stream_for_each_layer), ("noise between tensors",)),
    "a block of noise over and over": Break(_noise(a_block_over_and_over), ("noise within a step",)),
    "noise of a uniform law": Break(_noise(uniform_law), ("law of the noise",)),
    "noise halved where records are": Break(_noise(only_when_somebody_is_sampled), ("noise with records",)),
    "noise taken back by the next step": Break(_antithetic, ("noise between steps",)),
    "noise kept over rounds": Break(_kept_over_rounds, ("noise between steps", "noise between rounds")),
    "clip of each parameter": Break(_clipped(per_parameter), ("one record",)),
    "clip by the mean norm": Break(_clipped(by_the_mean_norm), ("one record", "shares of one record")),
    "records that are not finite stay": Break(_clipped(what_is_not_finite_stays), ("one record",)),
    "division by the batch": Break(_batch_in_place_of_expectation, ("noisy sums alone",)),
    "head moved beside the noise": Break(
        _head_beside_the_noise, ("noisy sums alone", "around the mechanism")
    ),
    "sampling rate doubled": Break(_poisson(doubled_rate), ("samples",)),
    "same sample every step": Break(_same_sample_every_step, ("samples",)),
    "samples from the task's seed": Break(_from_the_tasks_seed, ("samples between rounds",)),
    "samples of a fixed size": Break(_poisson(of_a_fixed_size), ("samples",)),
    "statistics without noise on scales": Break(
        _statistics(no_noise_on_scales), ("noisy sums alone",), (DP,)
    ),
    "statistics' noise by the rows": Break(_statistics(noise_by_the_rows), ("shares of one record",), (DP,)),
    "radii from the data": Break(_radii_from_the_data, ("shares of one record",), (DP,)),
    "statistics divided by finite rows": Break(_counted_records, ("noisy sums alone",), (DP,)),
    "summary without noise": Break(
        _summary(no_noise), ("noisy sums alone", "one record in the summaries"), RIDGE
    ),
    "half the noise on a summary": Break(_summary(half_noise), ("one record in the summaries",), RIDGE),
    "summary of rows of any length": Break(_rows_of_any_length, ("one record in the summaries",), RIDGE),
    "summary divided by counted rows": Break(_summary_of_counted_rows, ("noisy sums alone",), RIDGE),
    "exact accuracy": Break(_metric(exact_metric), ("noise of the metric", "noisy sums alone"), (FIGURE,)),
    "a third of the noise on the accuracy": Break(
        _metric(third_of_metric_noise), ("noise of the metric", "one record in the metric"), (FIGURE,)
    ),
    "accuracy of triple weight": Break(
        _metric(metric_of_triple_weight), ("one record in the metric",), (FIGURE,)
    ),
    "inputs centred by the rows' mean": Break(_mean_of_the_rows, ("before the mechanism",)),
    "rows split by their labels": Break(_split_by_label, ("before the mechanism",)),
    "as many steps as the rows ask for": Break(_steps_from_the_rows, ("noisy sums alone",)),
}


if name := os.environ.get("FEDTL_BREAK"):
    BREAKS[name].patch(pytest.MonkeyPatch())
