"""
DP-SGD (Abadi et al., 2016): what takes the place of ``loss.mean().backward(); optimizer.step()`` in private training.

A step is one release, w += optimizer((sum_i clip(g_i) + N(0, (sigma C)^2)) / expected batch): the one place where a
model meets records whose sum is noisy. What comes after the noise (momentum, weight decay) costs nothing.
Opacus' hooks take per-example gradients where book-keeping cannot; its optimizer and its noise are not used.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl.errors import ConfigError
from fedtl.privacy import ghost
from fedtl.privacy.ghost import Gradients
from fedtl.privacy.noise import Noise
from fedtl.privacy.quiet import opacus_for
from fedtl.privacy.samplewise import still
from fedtl.silonorm import ChannelAffine

EQUAL = 1e-3  # relative, in float32: what two ways to the same gradients may differ by

# The losses [B] of the examples in these rows, through the net.
Losses = Callable[[nn.Module, Tensor], Tensor]


def poisson(count: int, rate: float, noise: Noise) -> Tensor:
    """Each of ``count`` rows (or units) with probability ``rate``, independently: int64, in order, perhaps none."""
    return (noise.uniform(count) < rate).nonzero().flatten()


class Mechanism:
    """
    The private steps of one stretch of training.

    ``clip`` bounds the length of one record's gradient over all parameters that move, ``noise_multiplier`` times
    ``clip`` is the standard deviation of the noise on the sum, and ``expected_batch`` (sampling rate times number
    of records) divides it, whatever the batch holds. ``fast``: book-keeping instead of hooks, where ``proven``
    allows it. ``microbatch``: so many rows at once, 0 for all; the sum and its noise are the batch's.

    Raises ConfigError unless ``optimizer`` moves exactly the net's parameters that require gradients: what moves
    beside it moves unprotected.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Optimizer,
        clip: float,
        noise_multiplier: float,
        expected_batch: float,
        noise: Noise,
        fast: bool = False,
        microbatch: int = 0,
    ) -> None:
        numbers = {"clip": clip, "noise_multiplier": noise_multiplier, "expected_batch": expected_batch}
        for name, value in numbers.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"privacy: {name} is {value}; it must be a number above 0")
        moved = {weight for group in optimizer.param_groups for weight in group["params"]}
        names = {name for name, weight in net.named_parameters() if weight.requires_grad != (weight in moved)}
        if names or not moved <= set(net.parameters()):
            raise ConfigError(
                f"privacy: the optimizer must move what the net trains, no more and no less: {sorted(names)[:3]}"
            )
        self._net, self._weights, self._moving, self._optimizer = (
            net,
            list(net.parameters()),
            _moving(net),
            optimizer,
        )
        self._clip, self._deviation, self._expected = clip, noise_multiplier * clip, expected_batch
        self._noise, self._fast, self._microbatch = noise, fast, microbatch

    def step(
        self,
        rows: Tensor,
        losses: Losses,
        units: Tensor | None = None,
        beside: Callable[[], None] | None = None,
    ) -> None:
        """
        One noisy step on these rows, of which there may be none. Nothing raw is left, even when it fails.

        ``units`` [B], such as patients' numbers: the gradients of a unit are summed before the clip, so that the
        unit is what is protected. ``beside`` runs between the noise and the optimizer, for loss terms that
        see weights alone and add to ``.grad``. Raises ConfigError where ``losses`` does not give one a row.
        """
        if units is not None and self._fast:
            raise ConfigError("privacy: units of several rows need fast = False")
        try:
            total = self._noise.add(self._clipped(rows, losses, units), self._deviation).div_(self._expected)
            each = total.split([weight.numel() for weight in self._moving])
            for weight, part in zip(self._moving, each, strict=True):
                weight.grad = torch.empty_like(weight).copy_(part.view_as(weight))  # in the weight's layout
            if beside is not None:
                beside()
            self._optimizer.step()
        finally:
            self._forget()

    def _clipped(self, rows: Tensor, losses: Losses, units: Tensor | None) -> Tensor:
        """The sum of clipped gradients over all rows, of all parameters one after the other."""
        take = by_book if self._fast else by_hooks
        total: Tensor | None = None
        for part, its in _parts(rows, units, self._microbatch):
            more = torch.cat(
                [one.flatten() for one in clipped(take, self._net, part, losses, self._clip, its)]
            )
            total = more if total is None else total.add_(more)
        return (
            torch.cat([torch.zeros_like(one).flatten() for one in self._moving]) if total is None else total
        )

    def _forget(self) -> None:
        for weight in self._weights:
            weight.grad = None


def _moving(net: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in net.parameters() if weight.requires_grad]


def _parts(rows: Tensor, units: Tensor | None, most: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The rows in parts of at most so many, 0 for all; units are never cut, so that one may exceed it."""
    most = most or max(len(rows), 1)
    if units is None:
        yield from ((part, None) for part in rows.split(most) if len(part))
        return
    order = units.argsort(stable=True)
    rows, units = rows[order], units[order]
    begin = end = 0
    for size in units.unique_consecutive(return_counts=True)[1].tolist():
        if end > begin and end + size - begin > most:
            yield rows[begin:end], units[begin:end]
            begin = end
        end += size
    if end > begin:
        yield rows[begin:end], units[begin:end]


Taking = Callable[[nn.Module, Tensor, Losses, Tensor | None], Gradients]


def clipped(
    take: Taking, net: nn.Module, rows: Tensor, losses: Losses, clip: float, units: Tensor | None = None
) -> list[Tensor]:
    """
    sum_i g_i min(1, C / ||g_i||), for each moving parameter. A record (or unit) whose gradient is not finite adds
    nothing: no factor could bound it, and a sum that is not finite would tell that it was there.
    """
    norms, weighted = take(net, rows, losses, units)
    finite = norms.isfinite()
    if not finite.all():
        which = finite if units is None else finite[units.unique(return_inverse=True)[1]]
        del weighted
        if not which.any():
            return [torch.zeros_like(weight) for weight in _moving(net)]
        which = which.to(rows.device)
        return clipped(take, net, rows[which], losses, clip, None if units is None else units[which])
    return weighted((clip / (norms + 1e-6)).clamp(max=1))


def by_book(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """By ``ghost``: fast, and without units."""
    assert units is None
    return ghost.gradients(net, lambda: _one_each(losses(net, rows), rows))


def by_hooks(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """By the hooks of Opacus (Yousefpour et al., 2021), which hold each example's gradient: the reference."""
    try:
        _opacus().GradSampleHooks(net, loss_reduction="sum", strict=True)
        values = _one_each(losses(net, rows), rows)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # inputs need no gradient
            values.sum().backward()
        each = [_sample(weight, len(rows)) for weight in _moving(net)]
    finally:
        _forget_hooks(net)
    return _of_each(each, units)


def by_row(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """
    By autograd, one row's loss at a time: slow, and what a per-example gradient means. All rows go forward
    together: alone, a row rounds otherwise, and a ReLU that falls to the other side moves a deep net's gradient by 1e-2.
    """
    moving = _moving(net)
    each = [
        torch.autograd.grad(value, moving, retain_graph=True, allow_unused=True, materialize_grads=True)
        for value in _one_each(losses(net, rows), rows)
    ]
    return _of_each([torch.stack(one) for one in zip(*each, strict=True)], units)


def proven(net: nn.Module, rows: Tensor, losses: Losses, clip: float, units: bool = False) -> bool:
    """
    Whether ``fast`` may be used: book-keeping gives the norms and the clipped sum that autograd gives for one
    row's loss at a time. False: Opacus' hooks do. With ``units`` the hooks have to.

    A few rows suffice; random ones do not make the answer depend on data. To be asked before every private run.
    Raises ConfigError where neither does, with what each did instead.
    """
    ways: dict[str, Taking] = {} if units else {"book-keeping": by_book}
    ways["hooks"] = by_hooks
    failures = []
    with still(net):
        truth = by_row(net, rows, losses)[0], clipped(by_row, net, rows, losses, clip)
        for name, take in ways.items():
            try:
                found = take(net, rows, losses, None)[0], clipped(take, net, rows, losses, clip)
            except (RuntimeError, ValueError, NotImplementedError, ghost.Unsupported) as error:
                failures.append(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}")
                continue
            if _equal([found[0]], [truth[0]]) and _equal(found[1], truth[1]):
                return take is by_book
            failures.append(f"{name}: other gradients than autograd's for single rows")
    raise ConfigError(f"privacy: this model has no sound per-example gradients ({'; '.join(failures)})")


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    """One by one; what is tiny beside the whole (a bias before a norm, whose gradient is 0) is rounding alone."""
    whole = torch.stack([other.norm() for other in others]).norm()
    return all(
        one.shape == other.shape and bool((one - other).norm() <= EQUAL * (other.norm() + 0.01 * whole))
        for one, other in zip(some, others, strict=True)
    )


def _one_each(values: Tensor, rows: Tensor) -> Tensor:
    if values.shape != (len(rows),):
        raise ConfigError(
            f"privacy: {len(rows)} rows have losses of shape {list(values.shape)}, not one each"
        )
    return values


def _sample(weight: nn.Parameter, rows: int) -> Tensor:
    """The per-example gradients that the hooks left; zeros where the losses did not use the parameter."""
    found: Tensor | None = weight.grad_sample  # type: ignore[attr-defined]
    return weight.new_zeros(rows, *weight.shape) if found is None else found.to(weight.dtype)


def _of_each(each: list[Tensor], units: Tensor | None) -> Gradients:
    if units is not None:
        number, which = units.unique(return_inverse=True)
        which = which.to(each[0].device)
        each = [part.new_zeros(len(number), *part.shape[1:]).index_add_(0, which, part) for part in each]
    norms = torch.stack([part.flatten(1).norm(dim=1) for part in each]).norm(dim=0)
    return norms, lambda factors: [torch.einsum("n,n...->...", factors, part) for part in each]


def _forget_hooks(net: nn.Module) -> None:
    """All that Opacus leaves in a net, also where it gave up half-way: its own cleanup keeps activations."""
    for hook in net.__dict__.pop("autograd_grad_sample_hooks", ()):
        hook.remove()
    for module in net.modules():
        for name in ("activations", "max_batch_len", "ft_compute_sample_grad"):
            module.__dict__.pop(name, None)
    for weight in net.parameters():
        weight.grad = None
        for name in ("grad_sample", "_current_grad_sample", "_forward_counter"):
            weight.__dict__.pop(name, None)


def _affine(layer: ChannelAffine, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    x = activations[0].to(backprops.dtype)
    samples = {layer.weight: x * backprops, layer.bias: backprops}
    return {
        weight: values.flatten(2).sum(2) if values.dim() > 2 else values
        for weight, values in samples.items()
        if weight.requires_grad
    }


def _conv2d(layer: nn.Conv2d, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Opacus 1.6 reads the memory of a channels-last input as if it were contiguous: norms were 30 to 90 % off."""
    from opacus.grad_sample.conv import compute_conv_grad_sample  # type: ignore[import-untyped]

    x = activations[0].contiguous()
    samples: dict[nn.Parameter, Tensor] = compute_conv_grad_sample(layer, [x], backprops.contiguous())
    return samples


@lru_cache(1)
def _opacus() -> ModuleType:
    """
    Its hooks, with two samplers of ours. It takes seconds and much memory, so not before a net needs it. Raises
    ConfigError.
    """
    with opacus_for("private training of this model"):
        from opacus import grad_sample  # type: ignore[import-untyped]

    grad_sample.register_grad_sampler(ChannelAffine)(_affine)
    grad_sample.register_grad_sampler(nn.Conv2d)(_conv2d)
    return grad_sample
