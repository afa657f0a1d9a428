"""
Whether records stay apart in a model and its losses: the question that clipping takes for answered.

Asked by experiment, because types do not tell: Opacus 1.6 accepts BatchNorm without scale, with a frozen scale, as a
subclass, or written by hand, and any loss. In each of them one record moves all others' gradients.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fedtl._util.randomness import seed_layers
from fedtl.errors import ConfigError, SiloFailed
from fedtl.methods.losses import Batch

KEPT = (slice(0, 1), slice(1, None), slice(0, None, 2), slice(1, None, 2))  # while all others are replaced
TOLERANCE = 1e-4  # of the batch's largest value: sums in another order move by less
WAY_OUT = "record-level privacy needs layers and losses that see one record at a time (GroupNorm, LayerNorm, SiloNorm)"

Losses = Callable[[nn.Module, Batch], Tensor]


@torch.no_grad()
def check_examples_independent(net: nn.Module, batch: Batch, losses: Losses) -> None:
    """
    Raise ConfigError where a record's scores ``net(x)`` or its loss, of ``losses(net, batch)`` [B], or the gradient of
    that loss, depend on other records of the batch (scores and loss: or on how many there are), or where a pass changes
    a buffer; and SiloFailed where a gradient is not finite, which nobody can compare. The net is left as it
    was.

    ``batch`` holds four records or more; random ones will do, and do not make the answer depend on data. Layers
    are in training mode, and draw the same numbers in each pass.
    """
    if len(batch.y) < 4:
        raise ValueError(f"needs four records or more, not {len(batch.y)}")
    with _untouched(net):
        net.train()
        buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
        scores, values = _pass(net, batch, losses)
        written = [name for name, now in net.named_buffers() if not torch.equal(now, buffers[name])]
        if written:
            raise ConfigError(f"training would write what it saw into the buffer {written[0]}; {WAY_OUT}")
        score = _size(scores)
        loss = max(score, _size(values))  # a difference of scores, with their rounding, however small it is
        for kept in KEPT:
            other = _others_replaced(batch, kept, scores.shape[1])
            after = _pass(net, other, losses)
            if _moved(scores[kept], after[0][kept], score):
                place = _first_moved(net, batch, other, kept)
                raise ConfigError(f"a record's scores depend on the others of its batch{place}; {WAY_OUT}")
            if _moved(values[kept], after[1][kept], loss):
                raise ConfigError(f"a record's loss depends on the others of its batch; {WAY_OUT}")
            # A backward pass of its own making may look where the forward pass did not.
            one, two = _gradient(net, batch, losses, kept), _gradient(net, other, losses, kept)
            if not one.isfinite().all():
                raise SiloFailed("the gradient of random rows is not finite; a lower train.lr may help")
            if not bool((one - two).norm() <= TOLERANCE * one.norm()):
                raise ConfigError(f"a record's gradient depends on the others of its batch; {WAY_OUT}")
        with without_dropout(net):
            together, alone = _pass(net, batch, losses), _pass(net, _only_first(batch), losses)
            for what, before, now, size in zip(
                ("scores", "loss"), together, alone, (score, loss), strict=True
            ):
                if _moved(before[:1], now, size):
                    raise ConfigError(f"a record's {what} depends on the size of its batch; {WAY_OUT}")


@contextmanager
def without_dropout(net: nn.Module) -> Iterator[None]:
    """Modules without parameters as in evaluation: dropout draws by place in the batch, so batches of other sizes
    could not be compared."""
    modes = {module: module.training for module in net.modules()}
    for module in modes:
        if next(module.parameters(), None) is None:
            module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _untouched(net: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in net.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    device = _device(net)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, value in buffers:
            buffer.copy_(value)


def _device(net: nn.Module) -> torch.device:
    return next((weight.device for weight in net.parameters()), torch.device("cpu"))


def _pass(net: nn.Module, batch: Batch, losses: Losses) -> tuple[Tensor, Tensor]:
    """Scores [B, ...] and losses [B]; each from the same seed."""
    seed_layers(0, _device(net))
    scores = net(batch.x)
    seed_layers(0, _device(net))
    values = losses(net, batch)
    if values.shape != batch.y.shape:
        raise ConfigError(f"the losses of {len(batch.y)} records have shape {list(values.shape)}; {WAY_OUT}")
    return scores.clone(), values.clone()


def _gradient(net: nn.Module, batch: Batch, losses: Losses, kept: slice) -> Tensor:
    """Of the sum of the kept records' losses, with respect to all that moves."""
    moving = [weight for weight in net.parameters() if weight.requires_grad]
    seed_layers(0, _device(net))
    with torch.enable_grad():
        total = losses(net, batch)[kept].sum()
    if not total.requires_grad:
        return total.new_zeros(1)
    parts = torch.autograd.grad(total, moving, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def _others_replaced(batch: Batch, kept: slice, classes: int) -> Batch:
    """Far other inputs and other labels for all records but those of ``kept``."""
    generator = torch.Generator().manual_seed(1)
    x, y = 10 * torch.randn(batch.x.shape, generator=generator).to(batch.x), batch.y.clone()
    if y.is_floating_point():
        y += 10 * torch.randn(y.shape, generator=generator).to(y)
    else:
        y = torch.randint(classes, y.shape, generator=generator).to(y)
    x[kept], y[kept] = batch.x[kept], batch.y[kept]
    return replace(batch, x=x, y=y)


def _only_first(batch: Batch) -> Batch:
    return Batch(batch.x[:1], batch.y[:1], batch.domain[:1])


def _size(values: Tensor) -> float:
    """The largest, of those that are finite."""
    return float(values.abs().nan_to_num(0.0, 0.0).max())


def _moved(before: Tensor, after: Tensor, size: float) -> bool:
    return not torch.allclose(before, after, rtol=0, atol=TOLERANCE * max(size, 1e-3), equal_nan=True)


def _first_moved(net: nn.Module, batch: Batch, other: Batch, kept: slice) -> str:
    """Where in the net records first meet, in words; "" where no layer's output shows it."""

    def outputs(x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def watch(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and len(output) == len(x):
                    found[path] = output[kept].clone()

            return hook

        leaves = [(path, module) for path, module in net.named_modules() if not list(module.children())]
        hooks = [module.register_forward_hook(watch(path)) for path, module in leaves]
        try:
            seed_layers(0, _device(net))
            net(x)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    before, after = outputs(batch.x), outputs(other.x)
    place = next((path for path in before if _moved(before[path], after[path], _size(before[path]))), None)
    return "" if place is None else f", from {place} ({type(net.get_submodule(place)).__name__}) on"
