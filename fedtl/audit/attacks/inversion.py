"""
Gradient inversion: inputs are reconstructed from an update as it was sent (Geiping et al., 2020: cosine distance and
total variation, minimised by Adam), with labels from the last layer if it is shared, and BatchNorm statistics if they
are.

The attack uses what the server has: what it sent, what came back, the settings, and the initial local tensors, which
follow from the experiment's seed. It is a realistic attack, not a bound.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from fedtl.models.roles import Role
from fedtl.models.state import State
from fedtl.training.config import TrainingConfig
from fedtl.training.trainer import Trainer

VARIATION_WEIGHT = 1e-2
STATISTICS_WEIGHT = 1e-2
LEARNING_RATE = 0.1  # that of Adam; halved after a half and after three quarters of the iterations
SSIM_WINDOW = 7  # side of the uniform window, in pixels
Images = NDArray[np.float64]  # [N, C, H, W] in 0..1


@dataclass(frozen=True)
class ObservedUpdate:
    """What was sent, what came back, the initial local tensors, the number of rows and steps, and the net's shapes."""

    shared: State
    delta: State
    local: State
    rows: int
    steps: int
    width: int
    shape: tuple[int, ...]


def gradient_multiplicity(training: TrainingConfig, steps: int) -> float:
    """
    The number of times that -delta / lr contains the mean gradient: with momentum m, the sum over t = 1..steps of
    (1 - m^t) / (1 - m).
    """
    m = training.momentum if training.optimizer == "sgd" else 0.0
    return sum((1 - m**t) / (1 - m) for t in range(1, steps + 1))


def mean_gradient(trainer: Trainer, update: ObservedUpdate, trained: Sequence[str]) -> State:
    """The mean gradient over the silo's steps, for each trained tensor that was sent. The scale is right for SGD only."""
    training, gradient = trainer.loop.training, State()
    multiplicity = gradient_multiplicity(training, update.steps)
    for name in trained:
        if name in update.delta:
            rate = training.lr * training.share_of(name)
            if rate:
                decay = training.weight_decay * update.shared[name]
                gradient[name] = -update.delta[name] / (rate * multiplicity) - decay
    return gradient


def infer_labels(update: ObservedUpdate, gradient: State, net: nn.Module) -> Tensor | None:
    """
    The labels of the rows, from the last layer's bias: its gradient is mean_c p - n_c / n (Zhao et al., 2020; counts as in
    Wainakh et al., 2022, with p the received model's outputs on random inputs). None if no such bias was sent.
    """
    name = next((n for n in reversed(update.delta) if n.startswith("head.") and n.endswith("bias")), None)
    if name is None or name not in gradient or update.width < 2:
        return None
    if gradient[name].shape != (update.width,):
        return None
    with torch.no_grad():
        noise = 2 * torch.rand(64, *update.shape, generator=torch.Generator().manual_seed(0)) - 1
        probabilities = net(noise).softmax(1).mean(0)
    remaining = update.rows * (probabilities - gradient[name])
    labels = []
    for _ in range(update.rows):
        labels.append(int(remaining.argmax()))
        remaining[labels[-1]] -= 1
    return torch.tensor(sorted(labels))


def invert(
    trainer: Trainer, update: ObservedUpdate, count: int, iterations: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Return at most ``count`` inputs [n, ...] as the net takes them (-1..1 for pixels), and the inferred labels."""
    net = copy.deepcopy(trainer.net(update.width)).cpu()
    net.load_state_dict(model_part(trainer.partition.join(update.shared, update.local)))
    trainer.loop.prepare(net, trainer.method.phases[0])
    weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    roles = trainer.partition.roles  # auxiliary modules are not part of the loss that is imitated here
    wanted = mean_gradient(trainer, update, [name for name in weights if roles[name] is not Role.AUX])
    labels = infer_labels(update, wanted, net)
    count = min(update.rows, count)
    generator = torch.Generator().manual_seed(seed)
    x = (0.2 * torch.randn(count, *update.shape, generator=generator)).requires_grad_()
    soft = torch.zeros(count, update.width).requires_grad_()
    hard = None if labels is None else labels[torch.linspace(0, len(labels) - 1, count).round().long()]
    optimizer = torch.optim.Adam([x, soft] if hard is None else [x], lr=LEARNING_RATE)
    milestones = [iterations // 2, 3 * iterations // 4]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.5)
    layers = _layer_statistics(net, update)
    for _ in range(iterations):
        optimizer.zero_grad()
        activations: list[Tensor] = []
        hooks = [module.register_forward_pre_hook(_recorder(activations)) for module, _, _ in layers]
        loss = _loss(net(x), hard, soft, update.width)
        for hook in hooks:
            hook.remove()
        gradient = torch.autograd.grad(loss, [weights[name] for name in wanted], create_graph=True)
        distance = _cosine_distance(gradient, list(wanted.values())) + VARIATION_WEIGHT * _variation(x)
        distance = distance + STATISTICS_WEIGHT * _statistics_distance(activations, layers)
        distance.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(-1, 1)
    return x.detach(), labels


def _loss(scores: Tensor, hard: Tensor | None, soft: Tensor, width: int) -> Tensor:
    if width < 2:
        return F.mse_loss(scores[:, 0], soft[:, 0])
    return F.cross_entropy(scores, soft.softmax(1) if hard is None else hard)


def _cosine_distance(gradient: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """1 - cosine over all tensors together."""
    dot = torch.stack([(a * b).sum() for a, b in zip(gradient, wanted, strict=True)]).sum()
    lengths = [torch.stack([a.square().sum() for a in part]).sum().sqrt() for part in (gradient, wanted)]
    return 1 - dot / (lengths[0] * lengths[1] + 1e-12)


def _variation(x: Tensor) -> Tensor:
    if x.dim() != 4:
        return x.new_zeros(())
    return (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()


Layer = tuple[nn.Module, Tensor, Tensor]  # with the mean and variance of its inputs


def _layer_statistics(net: nn.Module, update: ObservedUpdate) -> list[Layer]:
    """Each BatchNorm whose running statistics were sent, with the batch mean and variance that changed them."""
    layers = []
    for path, module in batch_norms(net):
        mean, var = f"{path}.running_mean", f"{path}.running_var"
        if mean not in update.delta or isinstance(module, FixedNorm):
            continue
        momentum = getattr(module, "momentum", None) or 0.1
        share = 1 - (1 - momentum) ** update.steps
        batch_mean, batch_var = (update.shared[name] + update.delta[name] / share for name in (mean, var))
        layers.append((module, batch_mean, batch_var.clamp_min(0)))
    return layers


def _recorder(activations: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda module, inputs: activations.append(inputs[0])


def _statistics_distance(activations: Sequence[Tensor], layers: Sequence[Layer]) -> Tensor:
    """
    The distance of the guess's layer statistics from those that were sent, in standard deviations (Yin et al., 2021).
    """
    gaps = []
    for activation, (_, mean, var) in zip(activations, layers, strict=True):
        flat = activation.transpose(0, 1).flatten(1)
        scale = var.mean().sqrt() + 1e-6
        deviation = flat.var(1, unbiased=False).clamp_min(1e-12).sqrt()
        gaps.append(((flat.mean(1) - mean) / scale).square().mean())
        gaps.append(((deviation - var.sqrt()) / scale).square().mean())
    return torch.stack(gaps).mean() if gaps else torch.zeros(())


def matched(guesses: Images, originals: Images) -> tuple[list[int], Images]:
    """Assign each guess an original of its own, with the least squared error; return the indices and the originals."""
    errors = ((guesses[:, None] - originals[None]) ** 2).reshape(len(guesses), len(originals), -1).mean(2)
    rows, columns = linear_sum_assignment(errors)
    order = [int(columns[list(rows).index(at)]) for at in range(len(guesses))]
    return order, originals[order]


def psnr(one: Images, other: Images) -> float:
    """Peak signal-to-noise ratio 10 log10(1 / mean squared error) in dB, for values in 0..1; at most 100."""
    return float(-10 * np.log10(max(((one - other) ** 2).mean(), 1e-10)))


def ssim(one: Images, other: Images) -> float:
    """Structural similarity (Wang et al., 2004) of images [C, H, W] in 0..1, over uniform windows that lie inside."""
    size = min(SSIM_WINDOW, *one.shape[1:])
    size -= 1 - size % 2
    values = []
    for a, b in zip(one, other, strict=True):
        unbiased = size**2 / max(size**2 - 1, 1)
        ma, mb, aa, bb, ab = (uniform_filter(part, size) for part in (a, b, a * a, b * b, a * b))
        va, vb, cov = (unbiased * part for part in (aa - ma * ma, bb - mb * mb, ab - ma * mb))
        c1, c2 = 0.01**2, 0.03**2
        windows = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        edge = size // 2
        values.append(float(windows[edge : windows.shape[0] - edge, edge : windows.shape[1] - edge].mean()))
    return float(np.mean(values))
