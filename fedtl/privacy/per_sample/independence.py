"""
Checks that the records of a batch are independent in a model and its losses, which clipping each record's gradient assumes.

Checked by experiment, because types are not enough: Opacus 1.6 accepts BatchNorm without scale, with a frozen scale, as a
subclass, or written by hand, and any loss. In each of these, one record changes the gradients of all others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedtl._util.randomness import seed_layers
from fedtl.errors import ConfigError, SiloFailed
from fedtl.methods.losses import Batch

# The records that are kept while all others are replaced.
KEPT_RECORDS = (slice(0, 1), slice(1, None), slice(0, None, 2), slice(1, None, 2))
TOLERANCE = 1e-4  # relative to the batch's largest value; summing in another order changes values by less
LARGE = 256  # records of the largest batch that a private step computes at once (``training.batches``)
NUMBERS_AT_ONCE = 2**24  # of the inputs of such a batch: of images of 3 x 224 x 224 px it has 111
ROUNDING = 5e-6  # relative to a vector's largest entry; measured: 4e-7, in entries close to 0
WAY_OUT = (
    "with [privacy], use layers and losses that treat each record separately (GroupNorm, LayerNorm, SiloNorm)"
)

Losses = Callable[[nn.Module, Batch], Tensor]


@torch.no_grad()
def check_examples_independent(net: nn.Module, batch: Batch, losses: Losses, large: bool = True) -> None:
    """
    Raise ConfigError if a record's scores ``net(x)`` or its loss, of ``losses(net, batch)`` [B], or the gradient of that
    loss, depend on other records of the batch (scores and loss: or on their number, with ``large`` up to LARGE), or if a pass changes a buffer. Raise
    SiloFailed if a gradient is not finite, because then nothing can be compared. The net is not changed.

    ``batch`` holds at least four records; synthetic ones make the answer independent of data. Layers are in training mode,
    and draw the same random numbers in each pass.
    """
    if len(batch.y) < 4:
        raise ValueError(f"needs at least 4 records, not {len(batch.y)}")
    with _untouched(net):
        net.train()
        buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
        scores, values = _pass(net, batch, losses)
        written = [name for name, now in net.named_buffers() if not torch.equal(now, buffers[name])]
        if written:
            raise ConfigError(f"training would change the buffer {written[0]} without noise; {WAY_OUT}")
        score = _size(scores)
        loss = max(
            score, _size(values)
        )  # a loss is a difference of scores, and has at least their rounding errors
        for kept in KEPT_RECORDS:
            other = _others_replaced(batch, kept, scores.shape[1])
            after = _pass(net, other, losses)
            if _moved(scores[kept], after[0][kept], score):
                layer = _first_dependent_layer(net, batch, other, kept)
                raise ConfigError(f"a record's scores depend on other records of its batch{layer}; {WAY_OUT}")
            if _moved(values[kept], after[1][kept], loss):
                raise ConfigError(f"a record's loss depends on other records of its batch; {WAY_OUT}")
            # A custom backward pass may use records that the forward pass did not.
            before, now = _gradient(net, batch, losses, kept), _gradient(net, other, losses, kept)
            if not before.isfinite().all():
                raise SiloFailed("the gradient of synthetic rows is not finite; a lower train.lr may help")
            if not bool((before - now).norm() <= TOLERANCE * before.norm()):
                raise ConfigError(f"a record's gradient depends on other records of its batch; {WAY_OUT}")
        with without_dropout(net):
            together = _pass(net, batch, losses)
            for which in _other_sizes(batch, large):
                others = _pass(net, _taken(batch, which), losses)
                for what, of_all, of_others, size in zip(
                    ("scores", "loss"), together, others, (score, loss), strict=True
                ):
                    if _moved(of_all[which], of_others, size):
                        raise ConfigError(f"a record's {what} depends on the size of its batch; {WAY_OUT}")


@torch.no_grad()
def check_vectors_independent(
    batch: Batch, vectors: Callable[[Batch], Tensor], classes: int, what: str
) -> None:
    """
    Raise ConfigError if a record's vector, of ``vectors(batch)`` [B, ...], depends on other records of the batch or on their
    number. ``classes``: how many labels there are; ``what``: what the vectors are, for the message. Each entry is compared by
    itself, so that a large one cannot hide what happens to a small one.
    """
    whole = vectors(batch)
    if len(whole) != len(batch.y):
        raise ConfigError(
            f"{len(batch.y)} records need {len(batch.y)} vectors of {what}, not {len(whole)}; {WAY_OUT}"
        )
    allowed = _rounding_of(whole)
    for kept in KEPT_RECORDS:
        other = vectors(_others_replaced(batch, kept, classes))
        if _entry_moved(whole[kept], other[kept], allowed[kept]):
            raise ConfigError(f"a record's vector of {what} depends on other records of its batch; {WAY_OUT}")
    for which in _other_sizes(batch, True):
        if _entry_moved(whole[which], vectors(_taken(batch, which)), allowed[which]):
            raise ConfigError(f"a record's vector of {what} depends on the size of its batch; {WAY_OUT}")


@contextmanager
def without_dropout(net: nn.Module) -> Iterator[None]:
    """
    Set modules without parameters to evaluation mode, and let torch's functions of dropout, which attention calls without a module,
    change nothing. Dropout draws by position in the batch, so batches of different sizes could not be compared.
    """
    modes = {module: module.training for module in net.modules()}
    for module in modes:
        if next(module.parameters(), None) is None:
            module.training = False
    try:
        with _DropoutOff():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _DropoutOff(TorchFunctionMode):
    """While it is active, torch's functions of dropout return their input."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.dropout, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout):
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            args, kwargs = (
                (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args,
                {**kwargs, "dropout_p": 0.0},
            )
            if len(args) > 4:
                del kwargs["dropout_p"]
        return func(*args, **kwargs)


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
    """Return scores [B, ...] and losses [B], each with the same random seed."""
    seed_layers(0, _device(net))
    scores = net(batch.x)
    seed_layers(0, _device(net))
    values = losses(net, batch)
    if values.shape != batch.y.shape[:1]:
        raise ConfigError(
            f"{len(batch.y)} records need {len(batch.y)} losses, not losses of shape {list(values.shape)}; {WAY_OUT}"
        )
    return scores.clone(), values.clone()


def _gradient(net: nn.Module, batch: Batch, losses: Losses, kept: slice) -> Tensor:
    """Return the gradient of the kept records' summed loss with respect to all trainable parameters, flat."""
    trainable = [weight for weight in net.parameters() if weight.requires_grad]
    seed_layers(0, _device(net))
    with torch.enable_grad():
        total = losses(net, batch)[kept].sum()
    if not total.requires_grad:
        return total.new_zeros(1)
    parts = torch.autograd.grad(total, trainable, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def _others_replaced(batch: Batch, kept: slice, classes: int) -> Batch:
    """Replace the inputs and labels of all records but ``kept`` by very different ones."""
    generator = torch.Generator().manual_seed(1)
    x, y = 10 * torch.randn(batch.x.shape, generator=generator).to(batch.x), batch.y.clone()
    if y.is_floating_point():
        y += 10 * torch.randn(y.shape, generator=generator).to(y)
    else:
        y = torch.randint(classes, y.shape, generator=generator).to(y)
    x[kept], y[kept] = batch.x[kept], batch.y[kept]
    return replace(batch, x=x, y=y)


def _other_sizes(batch: Batch, large: bool) -> Iterator[Tensor]:
    """
    Yield the numbers of the records of a batch of one, of one less, and, if ``large``, of a large batch, in which records occur again in an order
    without a pattern: a layer may mix records from a size of the batch on.
    """
    count = len(batch.y)
    yield torch.arange(1)
    yield torch.arange(count - 1)
    size = min(LARGE, NUMBERS_AT_ONCE // batch.x[0].numel())
    if large and size > count:
        yield torch.randint(count, (size,), generator=torch.Generator().manual_seed(2))


def _taken(batch: Batch, which: Tensor) -> Batch:
    which = which.to(batch.x.device)
    return replace(batch, x=batch.x[which], y=batch.y[which], domain=batch.domain[which], rows=None)


def _size(values: Tensor) -> float:
    """Return the largest absolute value of those that are finite."""
    return float(values.abs().nan_to_num(0.0, 0.0).max())


def _moved(before: Tensor, after: Tensor, size: float) -> bool:
    return not torch.allclose(before, after, rtol=0, atol=TOLERANCE * max(size, 1e-3), equal_nan=True)


def _rounding_of(vectors: Tensor) -> Tensor:
    """Return how much rounding may change each entry of vectors [B, ...]."""
    sizes = vectors.flatten(1).abs().nan_to_num(0.0, 0.0)
    return (TOLERANCE * sizes + ROUNDING * sizes.amax(1, keepdim=True)).view_as(vectors)


def _entry_moved(before: Tensor, after: Tensor, allowed: Tensor) -> bool:
    """Return whether an entry differs by more than is ``allowed`` for it; what is not finite has to stay as it is."""
    same = (before == after) | (before.isnan() & after.isnan())
    return not bool((same | ((before - after).abs() <= allowed)).all())


def _first_dependent_layer(net: nn.Module, batch: Batch, other: Batch, kept: slice) -> str:
    """Return in words the first layer whose output depends on other records; "" if no layer's output shows it."""

    def outputs(x: Tensor) -> dict[str, Tensor]:
        by_path: dict[str, Tensor] = {}

        def watch(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and len(output) == len(x):
                    by_path[path] = output[kept].clone()

            return hook

        leaves = [(path, module) for path, module in net.named_modules() if not list(module.children())]
        hooks = [module.register_forward_hook(watch(path)) for path, module in leaves]
        try:
            seed_layers(0, _device(net))
            net(x)
        finally:
            for hook in hooks:
                hook.remove()
        return by_path

    before, after = outputs(batch.x), outputs(other.x)
    path = next((path for path in before if _moved(before[path], after[path], _size(before[path]))), None)
    return "" if path is None else f", from layer {path} ({type(net.get_submodule(path)).__name__}) on"
