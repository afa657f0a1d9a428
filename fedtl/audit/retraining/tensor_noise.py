"""
Whether every tensor gets the claimed noise, and whether all of it is independent.

Gradients are read when the optimiser receives them, tensor by tensor: first when no record is sampled, so that they are
noise only; then with records, whose sum is the same in every step because the weights do not change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, kstest
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedtl.audit.retraining import independence
from fedtl.audit.retraining.altered_data import first_units
from fedtl.audit.retraining.audited_silo import AuditedSilo, as_kind, noise_only, scratch_guarantee
from fedtl.audit.retraining.recorded_sums import NO_SAMPLING_RATE, UnsampledGuarantee
from fedtl.audit.verdict import Measurement, exact, not_exercised
from fedtl.models.net import Net

Floats = NDArray[np.float64]
TOTAL_VALUES = 1_500_000  # the approximate number of values that are read, over all rounds, steps and tensors
MIN_STEPS, MAX_STEPS = 4, 24  # limits of the number of steps of one round
NORMALITY_VALUES = 5000
KEPT_VALUES = 4096  # the most values of a tensor that are compared with those of other tensors
ROUNDS = (1, 1, 2)  # the first round, the same again, and the second
RECORD_STEPS = 5  # the number of steps with records
RECORD_UNITS = 32  # the number of units whose records are in each of these steps
RECORD_CANARIES = 32  # the most canaries in each of these steps


@dataclass(frozen=True)
class TensorNoise:
    """
    The noise of one tensor, in claimed standard deviations: the first values [steps, at most KEPT_VALUES], the sum of all
    squares, and how many values there are.
    """

    values: Floats
    squares: float
    count: int


@dataclass(frozen=True)
class Gradient:
    """What the optimiser received for one tensor in one step: the first values, the sum of all squares, and their number."""

    values: torch.Tensor
    squares: float
    count: int


@contextmanager
def record_gradients(net: Net) -> Iterator[list[dict[str, Gradient]]]:
    """Record, for each step within the block, what the optimiser receives for each of the net's tensors."""
    names = {id(weight): name for name, weight in net.named_parameters()}
    steps: list[dict[str, Gradient]] = []

    def record(optimizer: Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = {
            names[id(weight)]: _summary(weight.grad.detach())
            for weight in weights
            if id(weight) in names and weight.grad is not None
        }
        if gradients:
            steps.append(gradients)

    handle = register_optimizer_step_pre_hook(record)
    try:
        yield steps
    finally:
        handle.remove()


def _summary(gradient: torch.Tensor) -> Gradient:
    flat = gradient.flatten()
    squares = float(torch.linalg.vector_norm(flat, dtype=torch.float64) ** 2)
    return Gradient(flat[:KEPT_VALUES].cpu().double(), squares, len(flat))


def record_noise(audited: AuditedSilo) -> dict[str, TensorNoise]:
    """The noise of each tensor in ROUNDS, in which no record is sampled."""
    trainer, guarantee = audited.frozen_trainer(), audited.guarantee
    net = trainer.net(audited.data.width)
    size = sum(weight.numel() for weight in net.parameters())
    steps = int(np.clip(TOTAL_VALUES // (size * len(ROUNDS)), MIN_STEPS, MAX_STEPS))
    unsampled = as_kind(
        noise_only(guarantee, sample_rate=NO_SAMPLING_RATE, steps=audited.steps(steps)),
        UnsampledGuarantee,
        divisor=guarantee.expected_batch,
    )
    recorded = dict[str, list[Gradient]]()
    for number in ROUNDS:
        with scratch_guarantee(unsampled) as scratch, record_gradients(net) as gradients:
            audited.fit(scratch, None, trainer, min(number, audited.rounds))
        for name, of_tensor in _by_tensor(gradients).items():
            recorded.setdefault(name, []).extend(of_tensor)
    unit = guarantee.expected_batch / (guarantee.training.noise_multiplier * guarantee.training.clip)
    return {name: _tensor_noise(steps, unit) for name, steps in recorded.items()}


def _by_tensor(steps: Sequence[Mapping[str, Gradient]]) -> dict[str, list[Gradient]]:
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: [step[name] for step in steps if name in step] for name in names}


def _tensor_noise(steps: Sequence[Gradient], unit: float) -> TensorNoise:
    return TensorNoise(
        np.stack([step.values.numpy() for step in steps]) * unit,
        sum(step.squares for step in steps) * unit**2,
        sum(step.count for step in steps),
    )


def deviation(noise: Mapping[str, TensorNoise]) -> Measurement:
    """Each tensor has the claimed variance: sums of squares of standard normal numbers are chi-square distributed."""
    p = {}
    for name, tensor in noise.items():
        law = chi2(tensor.count)
        p[name] = 2 * min(law.cdf(tensor.squares), law.sf(tensor.squares))
    return _worst_tensor(p, {name: (tensor.squares / tensor.count) ** 0.5 for name, tensor in noise.items()})


def _worst_tensor(p: Mapping[str, float], ratios: Mapping[str, float]) -> Measurement:
    name = min(p, key=lambda name: p[name])
    reason = f"the noise of {name}, the worst of {len(p)} tensors, has {ratios[name]:.3f} times the claimed standard deviation"
    return Measurement(min(1.0, float(p[name]) * len(p)), ratios[name], reason)


def normality(noise: Mapping[str, TensorNoise]) -> Measurement:
    """Values of all tensors together have the standard normal distribution."""
    each = max(1, NORMALITY_VALUES // len(noise))
    values = np.concatenate([tensor.values.ravel()[:each] for tensor in noise.values()])
    test = kstest(values, "norm")
    reason = f"the noise is not normally distributed (Kolmogorov-Smirnov distance {test.statistic:.3f} over {len(values)} values)"
    return Measurement(float(test.pvalue), float(test.statistic), reason)


def tensors_without_noise(audited: AuditedSilo, noise: Mapping[str, TensorNoise]) -> Measurement:
    """The optimiser receives noise for every tensor that a private phase trains."""
    trainer = audited.trainer
    phases = [trainer.method.phases[number] for number in audited.private_phases()]
    weights = dict(trainer.net(audited.data.width).named_parameters())
    trained = {name for phase in phases for name in trainer.loop.movable(phase.train) if name in weights}
    missing = sorted(trained - {name for name, tensor in noise.items() if tensor.squares})
    reason = f"{len(missing)} tensors are trained without noise, such as {missing[:1]}"
    return exact(not missing, float(len(missing)), reason)


def deviation_with_records(audited: AuditedSilo) -> Measurement:
    """With the same records in every step, what varies between steps is noise. One-sided, because dropout varies, too."""
    trainer, guarantee = audited.frozen_trainer(), audited.guarantee
    changed = noise_only(guarantee, sample_rate=1.0, steps=audited.steps(RECORD_STEPS))
    data, few = first_units(audited.data, changed, RECORD_UNITS)
    if few.canaries is not None:
        count = min(RECORD_CANARIES, few.canaries.count)
        few = replace(few, canaries=replace(few.canaries, count=count))
    net = trainer.net(data.width)
    with scratch_guarantee(few) as scratch, record_gradients(net) as steps:
        audited.fit(scratch, data, trainer)
        unit = scratch.expected_batch / (guarantee.training.noise_multiplier * guarantee.training.clip)
    p, ratios = {}, {}
    for name, of_tensor in _by_tensor(steps).items():
        values = torch.stack([step.values for step in of_tensor])
        free = (len(values) - 1) * values.shape[1]
        squares = float(((values - values.mean(0)) ** 2).sum()) * unit**2
        p[name], ratios[name] = float(chi2.cdf(squares, free)), (squares / free) ** 0.5
    return _worst_tensor(p, ratios)


def repeats_within_step(noise: Mapping[str, TensorNoise]) -> Measurement:
    """The noise of a step does not repeat itself, over all tensors of a phase, one after another."""

    def test(parts: Mapping[str, Floats]) -> tuple[float, str]:
        p, lag = independence.within_step(np.concatenate(list(parts.values()), 1))
        return p, f"the noise of a step repeats itself after {lag} values"

    return _worst_group(noise, test)


def repeats_between_tensors(noise: Mapping[str, TensorNoise]) -> Measurement:
    """Tensors that are trained in the same step have different noise."""
    if all(len(parts) == 1 for parts in _groups(noise)):
        return not_exercised("only one tensor is trained")

    def test(parts: Mapping[str, Floats]) -> tuple[float, str]:
        p, pair = independence.between_tensors(parts)
        return p, f"{pair} have noise in common"

    return _worst_group(noise, test)


def repeats_between_steps(noise: Mapping[str, TensorNoise]) -> Measurement:
    """The steps of one round have different noise."""
    return _worst_group(noise, lambda parts: _repeats(parts, 1, _steps_a_round(parts) - 1))


def repeats_between_rounds(noise: Mapping[str, TensorNoise]) -> Measurement:
    """Two rounds have different noise, and so has a round that is trained again."""
    return _worst_group(noise, lambda parts: _repeats(parts, _steps_a_round(parts), _steps(parts) - 1))


def _repeats(parts: Mapping[str, Floats], first: int, last: int) -> tuple[float, str]:
    p, place = independence.between_steps(parts, first, last)
    return p, f"noise is repeated: {place}"


def _steps(parts: Mapping[str, Floats]) -> int:
    return len(next(iter(parts.values())))


def _steps_a_round(parts: Mapping[str, Floats]) -> int:
    return _steps(parts) // len(ROUNDS)


def _worst_group(
    noise: Mapping[str, TensorNoise], test: Callable[[Mapping[str, Floats]], tuple[float, str]]
) -> Measurement:
    """The smallest p-value of the test over all groups, multiplied by their number."""
    worst, reason = 1.0, ""
    groups = _groups(noise)
    for parts in groups:
        p, text = test(parts)
        if p < worst:
            worst, reason = p, text
    return Measurement(min(1.0, worst * len(groups)), None, reason)


def _groups(noise: Mapping[str, TensorNoise]) -> list[dict[str, Floats]]:
    """Groups of tensors that have the same number of steps: their values by name."""
    groups: dict[int, dict[str, Floats]] = {}
    for name, tensor in noise.items():
        groups.setdefault(len(tensor.values), {})[name] = tensor.values
    return list(groups.values())
