"""
Clipped sums of per-example gradients, by any of three methods, and the choice of the fastest method that is correct.

The methods are book-keeping (fast), Opacus' hooks (the reference), and autograd for one row at a time (the definition of a
per-example gradient). This module must not depend on noise or optimizers.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from fedtl.errors import ConfigError, FedTLError, first_line
from fedtl.privacy.per_sample import bookkeeping
from fedtl.privacy.per_sample.bookkeeping import Gradients
from fedtl.privacy.per_sample.independence import without_dropout
from fedtl.privacy.per_sample.layer_rules import has_rule
from fedtl.privacy.per_sample.opacus import opacus_for

TOLERANCE = 1e-3  # relative, in float32: the largest difference between two methods that counts as rounding

# The losses [B] of the examples in these rows, through the net.
Losses = Callable[[nn.Module, Tensor], Tensor]

# From net, rows, losses and the rows' units to the norms of the gradients and their weighted sums.
GradientMethod = Callable[[nn.Module, Tensor, Losses, Tensor | None], Gradients]


def clipped(
    method: GradientMethod,
    net: nn.Module,
    rows: Tensor,
    losses: Losses,
    clip: float,
    units: Tensor | None = None,
) -> list[Tensor]:
    """
    Return sum_i g_i min(1, C / ||g_i||) for each trainable parameter. A record (or unit) whose gradient is not finite
    adds nothing: no factor could bound it, and a sum that is not finite would reveal that the record was there.
    """
    norms, weighted = method(net, rows, losses, units)
    finite = norms.isfinite()
    if not finite.all():
        which = finite if units is None else finite[units.unique(return_inverse=True)[1]]
        del weighted
        if not which.any():
            return [torch.zeros_like(weight) for weight in trainable(net)]
        which = which.to(rows.device)
        return clipped(method, net, rows[which], losses, clip, None if units is None else units[which])
    return weighted((clip / (norms + 1e-6)).clamp(max=1))


def by_bookkeeping(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """Compute the gradients by book-keeping, which does not store each example's gradient."""
    return bookkeeping.gradients(net, lambda: _one_loss_a_row(losses(net, rows), rows), units)


def by_hooks(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """Compute the gradients by the hooks of Opacus (Yousefpour et al., 2021), which store each example's: the reference."""
    with opacus_for("private training"):
        from fedtl.privacy.per_sample.hooks import Hooks
    hooks = Hooks(net)
    try:
        _one_loss_a_row(losses(net, rows), rows).sum().backward()
        gradients = [_stored_gradients(weight, len(rows)) for weight in trainable(net)]
    finally:
        hooks.close()
    return _norms_and_sums(gradients, units)


def by_row(net: nn.Module, rows: Tensor, losses: Losses, units: Tensor | None = None) -> Gradients:
    """
    Compute the gradients by autograd, one row's loss at a time: slow, and correct by definition. All rows go forward
    together: alone, a row is rounded differently, and a ReLU that changes sides changes a deep net's gradient by 1e-2.
    """
    weights = trainable(net)
    of_rows = [
        torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        for value in _one_loss_a_row(losses(net, rows), rows)
    ]
    return _norms_and_sums([torch.stack(grads) for grads in zip(*of_rows, strict=True)], units)


def choose_gradient_method(
    net: nn.Module, rows: Tensor, losses: Losses, clip: float, several_rows_a_unit: bool = False
) -> GradientMethod:
    """
    Return ``by_bookkeeping`` if it gives the norms and the clipped sum that autograd gives on these rows, else ``by_hooks``.
    ``several_rows_a_unit``: compare the methods for units of several rows too.

    A few synthetic rows suffice, and make the answer independent of data. To be called before every private run. Raises
    ConfigError if the hooks themselves differ from autograd for one row's loss at a time.
    """
    units = (
        torch.arange(len(rows)).clamp(max=2) if several_rows_a_unit else None
    )  # two units of one row, and one of all other rows
    with without_dropout(net):
        truth = _norms_and_clipped(by_row, net, rows, losses, clip, units)
        try:
            reference = _norms_and_clipped(by_hooks, net, rows, losses, clip, units)
        except FedTLError:
            raise
        except Exception as error:  # Opacus fails in as many ways as there are layers
            why = first_line(error)
            raise _unsupported(net, rows, losses, why) from error
        if not _equal(reference, truth):
            raise _unsupported(net, rows, losses, "they differ from autograd's gradients of single rows")
        try:
            fast = _norms_and_clipped(by_bookkeeping, net, rows, losses, clip, units)
        except Exception:  # the hooks can compute these gradients, as the lines above showed
            return by_hooks
        return by_bookkeeping if _equal(fast, reference) and _equal(fast, truth) else by_hooks


def _unsupported(net: nn.Module, rows: Tensor, losses: Losses, why: str) -> ConfigError:
    if layer := _layer_without_rows(net, rows, losses):
        return ConfigError(
            f"privacy: the input of {layer} does not have one row for each record (a bias by position is one for all), so no gradient of one "
            "record can be clipped; freeze this layer ([model.adapters]), or use another model.name, such as a BERT"
        )
    unknown = [f"{path} ({type(layer).__name__})" for path, layer in _layers_without_rule(net)]
    layers = f"{', '.join(unknown[:3])} of this model" if unknown else "this model"
    return ConfigError(
        f"privacy: per-example gradients of {layers} cannot be computed (Opacus hooks: {why}); use another model.name"
    )


@torch.no_grad()
def _layer_without_rows(net: nn.Module, rows: Tensor, losses: Losses) -> str:
    """Return path and type of a layer with trained parameters whose input does not have one row for each record; "" if all have."""
    found, count = list[str](), 0

    def look(name: str, layer: nn.Module, given: tuple[object, ...]) -> None:
        x = next((one for one in given if isinstance(one, Tensor)), None)
        if x is not None and (not x.dim() or len(x) != count):
            found.append(f"{name} ({type(layer).__name__})")

    hooks = [
        layer.register_forward_pre_hook(partial(look, name))
        for name, layer in net.named_modules()
        if any(weight.requires_grad for weight in layer.parameters(recurse=False))
    ]
    try:
        # A second pass with one record less: a layer that has, by chance, as many positions as there are records keeps their number.
        for some in (rows, rows[:-1]):
            count = len(some)
            losses(net, some)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _layers_without_rule(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and layer of those with trainable parameters of a type for which book-keeping has no rule."""
    for path, layer in net.named_modules():
        own = any(weight.requires_grad for weight in layer.parameters(recurse=False))
        if own and not has_rule(layer):
            yield path, layer


def _norms_and_clipped(
    method: GradientMethod, net: nn.Module, rows: Tensor, losses: Losses, clip: float, units: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    return method(net, rows, losses, units)[0], clipped(method, net, rows, losses, clip, units)


def _equal(result: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]]) -> bool:
    """Compare each record's norm and each parameter's sum. What is tiny compared with the largest is rounding (for
    example a bias before a normalisation layer, whose gradient is 0)."""
    norms = [*zip(result[0].split(1), expected[0].split(1), strict=True)]
    largest = expected[0].max()
    total = torch.stack([part.norm() for part in expected[1]]).norm()
    return all(_close(a, b, largest) for a, b in norms) and all(
        _close(a, b, total) for a, b in zip(result[1], expected[1], strict=True)
    )


def _close(values: Tensor, expected: Tensor, largest_norm: Tensor) -> bool:
    return values.shape == expected.shape and bool(
        (values - expected).norm() <= TOLERANCE * (expected.norm() + 0.01 * largest_norm)
    )


def _one_loss_a_row(values: Tensor, rows: Tensor) -> Tensor:
    if values.shape != (len(rows),):
        raise ConfigError(
            f"privacy: {len(rows)} rows need {len(rows)} losses, not losses of shape {list(values.shape)}; "
            "return one loss for each row"
        )
    return values


def _stored_gradients(weight: nn.Parameter, rows: int) -> Tensor:
    """Return the per-example gradients that the hooks stored; zeros if the losses did not use the parameter."""
    stored: Tensor | None = weight.grad_sample  # type: ignore[attr-defined]
    return weight.new_zeros(rows, *weight.shape) if stored is None else stored.to(weight.dtype)


def _norms_and_sums(gradients: list[Tensor], units: Tensor | None) -> Gradients:
    if units is not None:
        number, which = units.unique(return_inverse=True)
        which = which.to(gradients[0].device)
        gradients = [
            part.new_zeros(len(number), *part.shape[1:]).index_add_(0, which, part) for part in gradients
        ]
    flat = [
        part.flatten(1) if part.dim() > 1 else part[:, None] for part in gradients
    ]  # of a single number: [B]
    norms = torch.stack([part.norm(dim=1) for part in flat]).norm(dim=0)
    return norms, lambda factors: [torch.einsum("n,n...->...", factors, part) for part in gradients]


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require gradients, in the net's order."""
    return [weight for weight in net.parameters() if weight.requires_grad]
