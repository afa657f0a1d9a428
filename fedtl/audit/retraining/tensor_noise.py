"""
Does every tensor get the noise that was claimed, and is all of it independent?

Read where the optimiser takes its gradients, tensor by tensor: in a world where no record is sampled, so that noise is all
there is, and once more with records, whose sum is the same in every step while the weights do not move.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, kstest
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedtl.audit.retraining import independence as products
from fedtl.audit.retraining.audited_silo import Stage, as_kind, few, scratched, unlimited
from fedtl.audit.verdict import Measured
from fedtl.models.net import Net
from fedtl.privacy.guarantee import PrivacyGuarantee, Releases
from fedtl.training.trainer import Trainer

Floats = NDArray[np.float64]
RARE = 1e-12  # a sampling rate at which no record is ever drawn
VALUES = 1_500_000  # that are looked at in one rehearsal, over all steps and tensors
MOST, LEAST = 24, 4  # steps of one rehearsal
TESTED = 5000  # values whose law is compared with the normal one
KEPT = 4096  # values of a tensor that are compared with others
FITS = 3  # the first round, the same again, and the second
FILLED = 5  # steps with records
UNITS = 32  # units whose records are in every one of these
CANARIES = 32  # that are beside them, at most


@dataclass(frozen=True)
class Unsampled(PrivacyGuarantee):
    """A promise that draws nobody, and divides as the real one does."""

    divisor: float = field(default=1.0, kw_only=True)

    @property
    def expected_batch(self) -> float:
        return self.divisor


@dataclass(frozen=True)
class Noise:
    """Of one tensor, in standard deviations of the claim: values [steps, at most KEPT], the sum of all squares, and of how many."""

    values: Floats
    squares: float
    count: int


@dataclass(frozen=True)
class Given:
    """What the optimiser was given for one tensor in one step: its first values, and the squares and number of all."""

    values: torch.Tensor
    squares: float
    count: int


@contextmanager
def watched(net: Net) -> Iterator[list[dict[str, Given]]]:
    """What the optimiser is given for each of the net's tensors, a dict a step, while the block lasts."""
    names = {id(weight): name for name, weight in net.named_parameters()}
    steps: list[dict[str, Given]] = []

    def look(optimizer: Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        given = {
            names[id(weight)]: _given(weight.grad.detach())
            for weight in weights
            if id(weight) in names and weight.grad is not None
        }
        if given:
            steps.append(given)

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield steps
    finally:
        handle.remove()


def _given(gradient: torch.Tensor) -> Given:
    flat = gradient.flatten()
    squares = float(torch.linalg.vector_norm(flat, dtype=torch.float64) ** 2)
    return Given(flat[:KEPT].cpu().double(), squares, len(flat))


def empty(stage: Stage) -> dict[str, Noise]:
    """The noise of FITS rounds in which no record is sampled, one round after another."""
    trainer, its = stage.unmoved(), stage.guarantee
    net = trainer.net(stage.data.width)
    size = sum(weight.numel() for weight in net.parameters())
    each = int(np.clip(VALUES // (size * FITS), LEAST, MOST))
    nobody = as_kind(its, Unsampled, divisor=its.expected_batch)
    found = []
    for number in (1, 1, 2)[:FITS]:
        changed = unlimited(replace(nobody, releases=Releases()), sample_rate=RARE, steps=stage.steps(each))
        with scratched(changed) as guarantee, watched(net) as steps:
            stage.fit(guarantee, None, trainer, min(number, stage.rounds))
        found.append(_by_tensor(steps))
    unit = its.expected_batch / (its.training.noise_multiplier * its.training.clip)
    return {name: _noise([given for one in found for given in one[name]], unit) for name in found[0]}


def _by_tensor(steps: Sequence[Mapping[str, Given]]) -> dict[str, list[Given]]:
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: [step[name] for step in steps if name in step] for name in names}


def _noise(steps: Sequence[Given], unit: float) -> Noise:
    values = np.stack([step.values.numpy() for step in steps]) * unit
    return Noise(values, sum(step.squares for step in steps) * unit**2, sum(step.count for step in steps))


def spread(noise: Mapping[str, Noise]) -> Measured:
    """Each tensor's variance against the claim's: squares of standard normal numbers are chi-square."""
    law = {name: chi2(its.count) for name, its in noise.items()}
    p = {name: 2 * min(law[name].cdf(its.squares), law[name].sf(its.squares)) for name, its in noise.items()}
    return _worst(p, {name: (its.squares / its.count) ** 0.5 for name, its in noise.items()})


def _worst(p: Mapping[str, float], ratios: Mapping[str, float]) -> Measured:
    name = min(p, key=lambda one: p[one])
    reason = f"the noise on {name} has {ratios[name]:.3f} times the claimed standard deviation, at worst of {len(p)} tensors"
    return min(1.0, float(p[name]) * len(p)), ratios[name], reason


def law(noise: Mapping[str, Noise]) -> Measured:
    """Values of all tensors together, in turn, against the standard normal law."""
    each = max(1, TESTED // len(noise))
    values = np.concatenate([its.values.ravel()[:each] for its in noise.values()])
    found = kstest(values, "norm")
    reason = f"the noise is not normal (KS distance {found.statistic:.3f} over {len(values)} values)"
    return float(found.pvalue), float(found.statistic), reason


def missing(stage: Stage, noise: Mapping[str, Noise]) -> Measured:
    """Every tensor that a private phase trains is given to the optimiser with noise."""
    trainer = stage.trainer
    phases = [trainer.method.phases[number] for number in stage.phases()]
    weights = dict(trainer.net(stage.data.width).named_parameters())
    wanted = {name for phase in phases for name in trainer.loop.movable(phase.train) if name in weights}
    odd = sorted(wanted - {name for name, its in noise.items() if its.squares})
    reason = f"{len(odd)} tensors are trained and got no noise, such as {odd[:1]}"
    return float(not odd), float(len(odd)), reason


def filled(stage: Stage, trainer: Trainer | None = None) -> Measured:
    """
    With records in every step: what varies from step to step is noise. One-sided, for a model with dropout varies more.
    """
    trainer, its = trainer or stage.unmoved(), stage.guarantee
    data, changed = few(stage.data, its, UNITS)
    if its.canaries is not None:
        changed = replace(changed, canaries=replace(its.canaries, count=min(CANARIES, its.canaries.count)))
    changed = unlimited(replace(changed, releases=Releases()), sample_rate=1.0, steps=stage.steps(FILLED))
    with scratched(changed) as guarantee, watched(trainer.net(data.width)) as steps:
        stage.fit(guarantee, data, trainer)
        unit = guarantee.expected_batch / (its.training.noise_multiplier * its.training.clip)
    p, ratios = {}, {}
    for name, given in _by_tensor(steps).items():
        values = torch.stack([step.values for step in given])
        free = (len(values) - 1) * values.shape[1]
        squares = float(((values - values.mean(0)) ** 2).sum()) * unit**2
        p[name], ratios[name] = float(chi2.cdf(squares, free)), (squares / free) ** 0.5
    return _worst(p, ratios)


def along(noise: Mapping[str, Noise]) -> Measured:
    """Within a step, over all tensors of one phase one after another."""
    worst, reason = 1.0, ""
    groups = _together(noise)
    for names in groups:
        p, lag = products.along(np.concatenate([noise[name].values for name in names], 1))
        if p < worst:
            worst, reason = p, f"the noise of a step repeats itself after {lag} values"
    return min(1.0, worst * len(groups)), None, reason


def _together(noise: Mapping[str, Noise]) -> list[list[str]]:
    """Names of tensors that have equally many steps."""
    groups: dict[int, list[str]] = {}
    for name, its in noise.items():
        groups.setdefault(len(its.values), []).append(name)
    return list(groups.values())


def across(noise: Mapping[str, Noise]) -> Measured:
    """Between tensors that are moved in the same step."""
    worst, reason, several = 1.0, "", False
    groups = _together(noise)
    for names in groups:
        several |= len(names) > 1
        p, where = products.between({name: noise[name].values for name in names})
        if p < worst:
            worst, reason = p, f"{where} have noise in common"
    if not several:
        return None, None, "only one tensor moves"
    return min(1.0, worst * len(groups)), None, reason


def again(noise: Mapping[str, Noise], fits: bool) -> Measured:
    """Between steps of one round; with ``fits`` between rounds, and between a round and the same round again."""
    worst, reason = 1.0, ""
    groups = _together(noise)
    for names in groups:
        parts = {name: noise[name].values for name in names}
        total = len(next(iter(parts.values())))
        first, last = (total // FITS, total - 1) if fits else (1, total // FITS - 1)
        p, where = products.over_steps(parts, first, last)
        if p < worst:
            worst, reason = p, f"noise comes again: {where}"
    return min(1.0, worst * len(groups)), None, reason
