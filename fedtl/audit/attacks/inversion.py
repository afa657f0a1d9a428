"""
Gradient inversion: inputs from an update as it crossed the wall (Geiping et al., 2020: cosine distance and total
variation, by Adam), with labels from the last layer where that is shared, and layer statistics where those are.

Knows what the server knows: what it sent, what came back, the settings, and the initial local tensors, which follow from
the experiment's seed. A realistic attack and no bound.
"""

import copy as copies
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fedtl.methods.sets import model_part
from fedtl.models.dp_norm import FixedNorm
from fedtl.models.norms import batch_norms
from fedtl.models.state import State
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer

SMOOTH = 1e-2  # weight of total variation
LIKE = 1e-2  # weight of the layers' statistics
RATE = 0.1  # Adam's, halved at three quarters
WINDOW = 7  # SSIM's, uniform


@dataclass(frozen=True)
class Crossed:
    """One update: what was sent, what came back, the initial local tensors, how many rows and steps it is of."""

    shared: State
    delta: State
    local: State
    rows: int
    steps: int
    width: int
    shape: tuple[int, ...]


def coefficient(training: TrainingConfig, steps: int) -> float:
    """
    How often the mean gradient is in minus delta / lr: with momentum m, sum over t = 1..steps of (1 - m^t) / (1 - m).
    Without it an update of several steps would be read as one huge gradient.
    """
    m = training.momentum if training.optimizer == "sgd" else 0.0
    return sum((1 - m**t) / (1 - m) for t in range(1, steps + 1))


def gradients(trainer: Trainer, its: Crossed, moving: Sequence[str]) -> State:
    """The mean gradient over the silo's steps, of each tensor that moves and crossed; for SGD in the right scale."""
    training, found = trainer.training, State()
    often = coefficient(training, its.steps)
    for name in moving:
        if name in its.delta:
            rate = training.lr * (training.body_lr if name.startswith("body.") else 1.0)
            if rate:
                found[name] = -its.delta[name] / (rate * often) - training.weight_decay * its.shared[name]
    return found


def labels(its: Crossed, gradient: State, net: nn.Module) -> Tensor | None:
    """
    Which labels the rows had, from the last layer's bias: its gradient is mean_c p - n_c / n (Zhao et al., 2020; counts
    as in Wainakh et al., 2022, with p of the received model on noise). None where no such bias crossed.
    """
    name = next((n for n in reversed(its.delta) if n.startswith("head.") and n.endswith("bias")), None)
    if name is None or name not in gradient or gradient[name].shape != (its.width,) or its.width < 2:
        return None
    with torch.no_grad():
        noise = 2 * torch.rand(64, *its.shape, generator=torch.Generator().manual_seed(0)) - 1
        chances = net(noise).softmax(1).mean(0)
    left = its.rows * (chances - gradient[name])
    found = []
    for _ in range(its.rows):
        found.append(int(left.argmax()))
        left[found[-1]] -= 1
    return torch.tensor(sorted(found))


def invert(
    trainer: Trainer, its: Crossed, most: int, iterations: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """At most ``most`` inputs [n, ...] as the net takes them (-1..1 for pixels), and the labels that were found."""
    net = copies.deepcopy(trainer.net(its.width)).cpu()
    net.load_state_dict(model_part(trainer.partition.join(its.shared, its.local)))
    trainer.loop.prepare(net, trainer.method.phases[0])
    weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    wanted = gradients(trainer, its, list(weights))
    known = labels(its, wanted, net)
    count = min(its.rows, most)
    generator = torch.Generator().manual_seed(seed)
    x = (0.2 * torch.randn(count, *its.shape, generator=generator)).requires_grad_()
    soft = torch.zeros(count, its.width).requires_grad_()
    picked = None if known is None else known[torch.linspace(0, len(known) - 1, count).round().long()]
    optimizer = torch.optim.Adam([x, soft] if picked is None else [x], lr=RATE)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [iterations // 2, 3 * iterations // 4], 0.5)
    layers = _statistics(net, its)
    for _ in range(iterations):
        optimizer.zero_grad()
        seen: list[Tensor] = []
        hooks = [module.register_forward_pre_hook(_watch(seen)) for module, _, _ in layers]
        made = _loss(net(x), picked, soft, its.width)
        for hook in hooks:
            hook.remove()
        found = torch.autograd.grad(made, [weights[name] for name in wanted], create_graph=True)
        loss = _distance(found, list(wanted.values())) + SMOOTH * _variation(x) + LIKE * _unlike(seen, layers)
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(-1, 1)
    return x.detach(), known


def _loss(scores: Tensor, picked: Tensor | None, soft: Tensor, width: int) -> Tensor:
    if width < 2:
        return F.mse_loss(scores[:, 0], soft[:, 0])
    return F.cross_entropy(scores, soft.softmax(1) if picked is None else picked)


def _distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """1 - cosine over all tensors together."""
    dot = torch.stack([(a * b).sum() for a, b in zip(found, wanted, strict=True)]).sum()
    lengths = [torch.stack([a.square().sum() for a in part]).sum().sqrt() for part in (found, wanted)]
    return 1 - dot / (lengths[0] * lengths[1] + 1e-12)


def _variation(x: Tensor) -> Tensor:
    if x.dim() != 4:
        return x.new_zeros(())
    return (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()


Layer = tuple[nn.Module, Tensor, Tensor]


def _statistics(net: nn.Module, its: Crossed) -> list[Layer]:
    """Each BatchNorm whose running statistics crossed, with the batch's mean and variance that moved them."""
    found = []
    for path, module in batch_norms(net):
        mean, var = f"{path}.running_mean", f"{path}.running_var"
        if mean not in its.delta or isinstance(module, FixedNorm):
            continue
        momentum = getattr(module, "momentum", None) or 0.1
        share = 1 - (1 - momentum) ** its.steps
        seen = (its.shared[mean] + its.delta[mean] / share, its.shared[var] + its.delta[var] / share)
        found.append((module, seen[0], seen[1].clamp_min(0)))
    return found


def _watch(seen: list[Tensor]) -> Any:
    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0])

    return hook


def _unlike(seen: Sequence[Tensor], layers: Sequence[Layer]) -> Tensor:
    """How far the guess's layer statistics are from those that crossed, in standard deviations (Yin et al., 2021)."""
    gaps = []
    for activation, (_, mean, var) in zip(seen, layers, strict=True):
        flat = activation.transpose(0, 1).flatten(1)
        scale = var.mean().sqrt() + 1e-6
        gaps.append(((flat.mean(1) - mean) / scale).square().mean())
        gaps.append(
            ((flat.var(1, unbiased=False).clamp_min(1e-12).sqrt() - var.sqrt()) / scale).square().mean()
        )
    return torch.stack(gaps).mean() if gaps else torch.zeros(())


Images = NDArray[np.float64]  # [N, C, H, W] of 0..1


def matched(guesses: Images, originals: Images) -> tuple[list[int], Images]:
    """For each guess the original that it is of, one each, so that the squared error is least; and those originals."""
    errors = ((guesses[:, None] - originals[None]) ** 2).reshape(len(guesses), len(originals), -1).mean(2)
    rows, columns = linear_sum_assignment(errors)
    order = [int(columns[list(rows).index(at)]) for at in range(len(guesses))]
    return order, originals[order]


def psnr(one: Images, other: Images) -> float:
    """10 log10(1 / mean squared error), in dB, of values in 0..1; at most 100."""
    return float(-10 * np.log10(max(((one - other) ** 2).mean(), 1e-10)))


def ssim(one: Images, other: Images) -> float:
    """Wang et al., 2004, with a uniform window, of images [C, H, W] of 0..1; windows that stand wholly inside."""
    size = min(WINDOW, *one.shape[1:])
    size -= 1 - size % 2
    values = []
    for a, b in zip(one, other, strict=True):
        scale = size**2 / max(size**2 - 1, 1)  # the unbiased covariance
        ma, mb, aa, bb, ab = (uniform_filter(part, size) for part in (a, b, a * a, b * b, a * b))
        va, vb, cov = (scale * part for part in (aa - ma * ma, bb - mb * mb, ab - ma * mb))
        c1, c2 = 0.01**2, 0.03**2
        every = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        edge = size // 2
        values.append(float(every[edge : every.shape[0] - edge, edge : every.shape[1] - edge].mean()))
    return float(np.mean(values))
