"""
The gradients of a small model without autograd: the kernels that one step calls are recorded, and called again for later batches.

With a few thousand weights, torch's modules and autograd take several times as long as the kernels. A recorded step calls the same
kernels in the same order with the same arguments, so its gradients have the same bits, which is checked when it is recorded. A step
is recorded only where its kernels cannot depend on values: layers of torch and the task's loss, and no kernel that draws random
numbers, that gives Python a value, or that reads a tensor which is neither the net's nor the batch's.

On a GPU the recorded kernels become a CUDA graph (``graphs``): one launch in place of a hundred.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedtl.methods.base import Phase
from fedtl.methods.losses import Batch, TaskLoss, Term
from fedtl.models.net import Net
from fedtl.tasks.base import LearningTask
from fedtl.training.graphs import Graph, fits_gpu
from fedtl.training.weights import Weights

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
EAGER_STEPS = 8  # of one kind, before one is recorded: recording takes as long as several steps
# Layers whose Python code does the same in each pass. On a CPU, large layers take their time in the kernels.
KNOWN_LAYERS = {
    "cpu": ("torch.nn.modules.", "fedtl.simulation.masked_norm"),
    "cuda": ("torch.nn.modules.", "fedtl.", "torchvision.", "timm."),
}
# |a - b| / |b| of a gradient on a GPU, where the order of a sum may differ from call to call, and the same of all gradients together:
# those of a bias before a norm are rounding errors alone.
ROUNDING, ROUNDING_OF_ALL = 1e-2, 1e-6
DEPENDS_ON_VALUES = {
    torch.Tag.nondeterministic_seeded,
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
}
DETACH, ONES = torch.ops.aten.detach.default, torch.ops.aten.ones_like.default
Gradients = Sequence[Tensor | None]


class Unfit(Exception):
    """A step that cannot be recorded."""


class GradientSteps:
    """The steps of a net in one phase, by the shapes of their batches. ``moving``: the parameters that need gradients."""

    def __init__(self, net: Net, moving: Sequence[nn.Parameter]) -> None:
        self._moving, self._buffers = moving, list(net.buffers())
        self._tensors = [*net.parameters(), *self._buffers]
        # Steps so far, a recorded step, or None: unfit.
        self._kinds: dict[Hashable, int | Recorded | None] = {}

    def backward(self, inputs: Sequence[Tensor], loss: Callable[[], Tensor]) -> None:
        """Set the gradients of the loss on a batch, as ``loss().backward()`` does; they were None. ``inputs``: the batch's tensors."""
        kind = tuple((one.shape, one.dtype, one.stride()) for one in inputs)
        known = self._kinds.get(kind, 0)
        if isinstance(known, Replay | Graph):
            for weight, gradient in zip(self._moving, known(inputs), strict=True):
                weight.grad = gradient
        elif known == EAGER_STEPS:
            self._kinds[kind] = self._recorded(inputs, loss)
        else:
            loss().backward()
            self._kinds[kind] = None if known is None else known + 1

    def _recorded(self, inputs: Sequence[Tensor], loss: Callable[[], Tensor]) -> "int | Recorded | None":
        """
        Do one step as usual, and return a recording of it; None where it cannot be recorded, or the recording gives another result; 0
        where the usual result is not finite, because this says nothing about later steps.
        """
        before = [one.clone() for one in self._buffers]
        loss().backward()
        after = [one.clone() for one in self._buffers]
        usual = [weight.grad for weight in self._moving]
        if not all(bool(one.isfinite().all()) for one in usual if one is not None):
            return 0
        try:
            with torch.random.fork_rng(devices=[]):
                _copy(before, self._buffers)
                step: Recorded = record([*self._tensors, *inputs], self._moving, loss)
                if inputs[0].is_cuda:
                    step = Graph(step, inputs)
                _copy(before, self._buffers)
                gradients = step(inputs)
            return step if _same(gradients, usual) and _same(self._buffers, after) else None
        except Exception as error:
            log.debug("steps of %s are not recorded: %s", [tuple(one.shape) for one in inputs], error)
            return None
        finally:
            _copy(after, self._buffers)


class OrdinarySteps:
    """Steps of which none is recorded."""

    def backward(self, inputs: Sequence[Tensor], loss: Callable[[], Tensor]) -> None:
        loss().backward()


def tensors_of(batch: Batch) -> tuple[Tensor, ...]:
    """Return what the loss of the task reads of a batch."""
    return batch.x, batch.y, batch.domain


def gradient_steps(
    weights: Weights,
    phase: Phase,
    terms: Sequence[Term],
    moving: Sequence[nn.Parameter],
    task: LearningTask,
) -> GradientSteps | OrdinarySteps:
    """Return the steps of a phase that trains these parameters by these losses."""
    plain = terms == (TaskLoss(),) and phase.through is None
    fast = weights.compute == (CPU, "float32") or weights.compute[0].type == "cuda"
    about = (task, weights.compute)
    return (recorded_steps(weights.net, moving, about) if plain and fast else None) or OrdinarySteps()


def recorded_steps(net: Net, moving: Sequence[nn.Parameter], about: Hashable) -> GradientSteps | None:
    """
    Return the steps of the net that train these parameters; None for a net with unknown layers, whose Python code may do something
    else in each pass, and for one that is too large for graphs. ``about``: what else decides about a step, such as task and precision.
    """
    modules, tensors = list(net.modules()), (*net.parameters(), *net.buffers())
    known = KNOWN_LAYERS.get(next(net.parameters()).device.type, ())
    if any(module is not net and not type(module).__module__.startswith(known) for module in modules):
        return None
    if moving[0].is_cuda and not fits_gpu(moving):
        return None
    places = (one.data_ptr() for one in tensors)
    key = (about, *map(id, moving), *map(id, tensors), *places, *(module.training for module in modules))
    if key not in net.kept:
        net.kept[key] = GradientSteps(net, moving)
    steps: GradientSteps = net.kept[key]
    return steps


class Replay:
    """A recorded step. ``values``: what its calls take and give, by place; the last known ones are the inputs."""

    def __init__(
        self, values: list[Any], known: int, calls: Sequence[Any], results: Sequence[int | None]
    ) -> None:
        self._values, self._known, self._calls, self._results = values, known, calls, results

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[Tensor]) -> Gradients:
        """Return the gradients, and change the net's buffers, as the recorded step does."""
        values = self._values.copy()
        values[self._known - len(inputs) : self._known] = inputs
        for kernel, arguments, place in self._calls:
            values[place] = kernel(*arguments(values))
        return [None if place is None else values[place] for place in self._results]


Recorded = Replay | Graph


class Recorder(TorchDispatchMode):
    """Records the kernels that are called while it is active. ``known``: the tensors that may be read."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: list[Any] = list(known)  # all of them, so that no other tensor gets the id of one
        self.places = {id(tensor): place for place, tensor in enumerate(known)}
        self.calls: list[tuple[Callable[..., Any], list[int], int, bool]] = []
        self.constants = set[int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False. Otherwise torch would import its compiler to hide the function below from it: two seconds of each process."""
        return False

    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if DEPENDS_ON_VALUES & set(kernel.tags) or any(isinstance(one, Tensor) for one in kwargs.values()):
            raise Unfit(str(kernel))
        places = [self._place_of(one) for one in args]
        if kernel._schema.is_mutable and self.constants.intersection(places):
            raise Unfit(f"{kernel} writes to a constant")
        result = kernel(*args, **kwargs)
        if kernel is DETACH:
            self.places[id(result)] = places[0]
            self.values.append(result)
            return result
        place = self.keep(result)
        if kernel is ONES:  # the gradient of the loss, which is then not computed
            self.constants.add(place)
            return result
        call = partial(kernel._op, **kwargs) if kwargs else kernel._op
        self.calls.append((call, places, place, kernel._schema.is_mutable))
        for number, part in enumerate(result if isinstance(result, tuple) else ()):
            self.calls.append((itemgetter(number), [place], self.keep(part), False))
        return result

    def keep(self, value: Any) -> int:
        self.values.append(value)
        if isinstance(value, Tensor):
            self.places.setdefault(id(value), len(self.values) - 1)
        return len(self.values) - 1

    def _place_of(self, value: Any) -> int:
        if isinstance(value, Tensor) and id(value) not in self.places:
            raise Unfit("it reads a tensor that is neither the net's nor the batch's")
        if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
            raise Unfit("it reads a list of tensors")
        return self.places[id(value)] if isinstance(value, Tensor) else self.keep(value)


def record(known: Sequence[Tensor], moving: Sequence[nn.Parameter], loss: Callable[[], Tensor]) -> Replay:
    """Return the step of these parameters by this loss. Raises Unfit."""
    with Recorder(known) as recorder:
        found: list[Tensor | None] = []
        for weight, gradient in zip(
            moving, torch.autograd.grad(loss(), moving, allow_unused=True), strict=True
        ):
            found.append(None if gradient is None else _own_gradient(weight, gradient, found))
    results = [None if gradient is None else recorder.places[id(gradient)] for gradient in found]
    needed, calls = {place for place in results if place is not None}, []
    for call, places, place, mutable in reversed(recorder.calls):
        if mutable or place in needed:
            needed.update(places)
            calls.append((call, _taker(places), place))
    made = {place for _, _, place in calls}
    values = [
        None if n in made else value if n in needed else None for n, value in enumerate(recorder.values)
    ]
    return Replay(values, len(known), calls[::-1], results)


def _own_gradient(weight: Tensor, gradient: Tensor, others: Sequence[Tensor | None]) -> Tensor:
    """Return the gradient as ``backward`` gives it to a weight: in the weight's memory layout, and in memory that no other one has."""
    taken = {other.untyped_storage().data_ptr() for other in others if other is not None}
    own = gradient.stride() == weight.stride() and gradient.untyped_storage().data_ptr() not in taken
    return gradient if own else torch.empty_like(weight, requires_grad=False).copy_(gradient)


def _taker(places: Sequence[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    if len(places) == 1:
        return itemgetter(slice(places[0], places[0] + 1))
    return itemgetter(*places)


def _copy(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for value, one in zip(values, into, strict=True):
        one.copy_(value)


def _same(found: Sequence[Tensor | None], usual: Sequence[Tensor | None]) -> bool:
    """Return whether tensors have the same bits; on a GPU, whether those with floats differ by rounding only."""
    pairs = list(zip(found, usual, strict=True))
    if any((a is None) is not (b is None) for a, b in pairs):
        return False
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    floats = [(a, b) for a, b in both if a.is_cuda and a.is_floating_point()]
    exact = all(torch.equal(a, b) for a, b in both if not (a.is_cuda and a.is_floating_point()))
    return exact and (not floats or close(floats))


def close(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Return whether each first tensor of a pair differs from the second by rounding only."""
    apart = torch.stack([(a - b).norm() for a, b in pairs])
    sizes = torch.stack([b.norm() for _, b in pairs])
    return bool((apart <= ROUNDING * sizes + ROUNDING_OF_ALL * sizes.norm()).all())
