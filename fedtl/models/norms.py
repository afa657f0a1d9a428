"""
Normalisation layers: which modules are one, and their statistics on a silo's own inputs.

Modules are recognised by their type and by the buffers that they own, never by their name.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fedtl.models.dp_norm import ChannelAffine, FixedNorm, SiloNorm
from fedtl.models.state import State

TORCH_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
FEDTL_NORMS = (SiloNorm, FixedNorm, ChannelAffine)
TIMM_NORMS = ("RmsNorm", "RmsNorm2d", "SimpleNorm", "SimpleNorm2d")


def is_norm(module: nn.Module) -> bool:
    """
    Return whether a module is a normalisation layer: one of torch or a subclass of it, one of timm that is not a subclass,
    one of ``models.dp_norm``, or any module that owns running statistics (FrozenBatchNorm2d of torchvision and timm).
    """
    layers = sys.modules.get("timm.layers")
    of_timm = tuple(getattr(layers, name) for name in TIMM_NORMS if hasattr(layers, name))
    return isinstance(module, TORCH_NORMS + FEDTL_NORMS + of_timm) or _owns_statistics(module)


def batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the path and the module of every layer with running statistics, in the model's order."""
    return ((path, module) for path, module in model.named_modules() if _owns_statistics(module))


def _owns_statistics(module: nn.Module) -> bool:
    owned = dict(module.named_buffers(recurse=False))
    return "running_mean" in owned and "running_var" in owned


def own_buffers(model: nn.Module) -> list[str]:
    """
    Return the names of buffers of numbers outside of the layers whose exact statistics are known: those that training changes by its inputs
    are statistics.
    """
    return [
        f"{path}.{name}".removeprefix(".")
        for path, module in model.named_modules()
        if not isinstance(module, (_NormBase, *FEDTL_NORMS))
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    ]


def adabn_statistics(model: nn.Module, batches: Iterable[Tensor]) -> State:
    """
    Return the exact mean and variance of every normalisation layer's input over ``batches``: AdaBN (Li et al., 2017).

    One pass for all layers, each normalising with the statistics of the current batch, as in training. Let batch b have
    n_b values per channel, of mean m_b and variance v_b. The sums N = sum n_b, S1 = sum n_b m_b and
    S2 = sum n_b (v_b + m_b^2) are kept in float64; then mean = S1 / N and variance = (S2 - S1^2 / N) / (N - 1), unbiased
    like torch's running variance. FixedNorm is included. The model is not changed.

    The result holds running means and variances by name, for ``load_state_dict(..., strict=False)``; it is empty for a
    model without running statistics.
    """
    norms = [(path, m) for path, m in batch_norms(model) if isinstance(m, _NormBase | FixedNorm)]
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def summing(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            n = x.numel() // x.shape[1]
            variance, mean = torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1], correction=0)
            if isinstance(module, FixedNorm):
                module.running_mean.copy_(mean)
                module.running_var.copy_(variance)
            variance, mean = variance.double(), mean.double()
            s1, s2, seen = sums.get(path, (torch.zeros_like(mean), torch.zeros_like(mean), 0))
            sums[path] = (s1 + n * mean, s2 + n * (variance + mean.pow(2)), seen + n)

        return hook

    if not norms:
        return {}
    hooks = [module.register_forward_pre_hook(summing(path)) for path, module in norms]
    try:
        with torch.no_grad(), _normalising_by_batch(model, [module for _, module in norms]):
            for x in batches:
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    adapted: State = {}
    for path, (s1, s2, n) in sums.items():
        mean = s1 / n
        variance = (s2 - s1 * mean).clamp_min(0) / max(n - 1, 1)
        adapted[f"{path}.running_mean"] = mean.float()
        adapted[f"{path}.running_var"] = variance.float()
    return adapted


def statistics_distance(used: State, exact: State) -> float | None:
    """
    Return the distance of the statistics ``used`` from the ``exact`` ones, in standard deviations; None if there are none.

    A layer that uses m' and s' on inputs of mean m and standard deviation s gives outputs of mean (m - m') / s' and
    standard deviation s / s', where 0 and 1 are expected. The distance is the root mean square over all channels of
    sqrt(((m - m') / s')^2 + (s / s' - 1)^2), the 2-Wasserstein distance of two normals; s^2 = variance + 1e-5.
    """
    squares = []
    for name in (name for name in exact if name.endswith("running_mean")):
        variance = name.removesuffix("mean") + "var"
        if variance not in exact:  # a layer of the model's own, with other statistics
            continue
        exact_std, used_std = (state[variance].double().add(1e-5).sqrt() for state in (exact, used))
        shift = (exact[name] - used[name]).double() / used_std
        squares.append(shift.pow(2) + (exact_std / used_std - 1).pow(2))
    return float(torch.cat(squares).mean().sqrt()) if squares else None


@contextmanager
def _normalising_by_batch(model: nn.Module, norms: list[nn.Module]) -> Iterator[None]:
    """
    Evaluation mode inside the block, except that ``norms`` use batch statistics. Restores modes and buffers at the end.
    """
    modes = {module: module.training for module in model.modules()}
    before = [(buffer, buffer.clone()) for module in norms for buffer in module.buffers(recurse=False)]
    model.eval()
    for module in norms:
        module.training = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, value in before:
            buffer.copy_(value)
