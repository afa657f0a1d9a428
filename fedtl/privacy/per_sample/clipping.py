"""
Clipped sums of per-example gradients: three ways to the same numbers, and the proof that they are the same.

By book-keeping (fast), by Opacus' hooks (the reference, and for units of several rows), and by autograd for one row at
a time (what a per-example gradient means). Must not know about noise or optimisers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedtl.errors import ConfigError
from fedtl.privacy.per_sample import bookkeeping as ghost
from fedtl.privacy.per_sample.bookkeeping import Gradients
from fedtl.privacy.per_sample.independence import still
from fedtl.privacy.per_sample.opacus import opacus_for

EQUAL = 1e-3  # relative, in float32: what two ways to the same gradients may differ by

# The losses [B] of the examples in these rows, through the net.
Losses = Callable[[nn.Module, Tensor], Tensor]

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
            return [torch.zeros_like(weight) for weight in moving(net)]
        which = which.to(rows.device)
        return clipped(take, net, rows[which], losses, clip, None if units is None else units[which])
    return weighted((clip / (norms + 1e-6)).clamp(max=1))


def by_book(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """By ``ghost``: fast, and without units."""
    assert units is None
    return ghost.gradients(net, lambda: _one_each(losses(net, rows), rows))


def by_hooks(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """By the hooks of Opacus (Yousefpour et al., 2021), which hold each example's gradient: the reference."""
    with opacus_for("private training"):
        from fedtl.privacy.per_sample.hooks import Hooks
    hooks = Hooks(net)
    try:
        _one_each(losses(net, rows), rows).sum().backward()
        each = [_sample(weight, len(rows)) for weight in moving(net)]
    finally:
        hooks.close()
    return _of_each(each, units)


def by_row(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """
    By autograd, one row's loss at a time: slow, and what a per-example gradient means. All rows go forward
    together: alone, a row rounds otherwise, and a ReLU that falls to the other side moves a deep net's gradient by 1e-2.
    """
    weights = moving(net)
    each = [
        torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        for value in _one_each(losses(net, rows), rows)
    ]
    return _of_each([torch.stack(one) for one in zip(*each, strict=True)], units)


def proven(net: nn.Module, rows: Tensor, losses: Losses, clip: float, units: bool = False) -> bool:
    """
    Whether ``fast`` may be used: book-keeping gives the norms and the clipped sum that Opacus' hooks give. False: the
    hooks do without it; with ``units`` they have to.

    A few rows suffice; random ones do not make the answer depend on data. To be asked before every private run.
    Raises ConfigError where the hooks themselves do not give what autograd gives for one row's loss at a time.
    """
    with still(net):
        truth = _norms_and_sum(by_row, net, rows, losses, clip)
        try:
            reference = _norms_and_sum(by_hooks, net, rows, losses, clip)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise _unsound((str(error).splitlines() or [type(error).__name__])[0]) from error
        if not _equal(reference, truth):
            raise _unsound("other gradients than autograd's for single rows")
        if units:
            return False
        try:
            found = _norms_and_sum(by_book, net, rows, losses, clip)
        except (RuntimeError, ValueError, NotImplementedError, ghost.Unsupported):
            return False
        return _equal(found, reference) and _equal(found, truth)


def _unsound(why: str) -> ConfigError:
    return ConfigError(f"privacy: this model has no sound per-example gradients (hooks: {why})")


def _norms_and_sum(
    take: Taking, net: nn.Module, rows: Tensor, losses: Losses, clip: float
) -> tuple[Tensor, list[Tensor]]:
    return take(net, rows, losses, None)[0], clipped(take, net, rows, losses, clip)


def _equal(some: tuple[Tensor, list[Tensor]], others: tuple[Tensor, list[Tensor]]) -> bool:
    """Each record's norm, and each parameter's sum; what is tiny beside the largest (a bias before a norm, whose
    gradient is 0) is rounding alone."""
    pairs = [*zip(some[0].split(1), others[0].split(1), strict=True)]
    most = others[0].max()
    norms = all(_near(one, other, most) for one, other in pairs)
    whole = torch.stack([other.norm() for other in others[1]]).norm()
    return norms and all(_near(one, other, whole) for one, other in zip(some[1], others[1], strict=True))


def _near(one: Tensor, other: Tensor, whole: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= EQUAL * (other.norm() + 0.01 * whole))


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


def moving(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that train, in the net's order."""
    return [weight for weight in net.parameters() if weight.requires_grad]
