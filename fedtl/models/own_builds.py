"""Whether a network that an author wrote is the same each time that its function builds it, and is wholly in what it saves."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.net import Shape, seeded_build
from fedtl.models.own_scores import equal, has_own_layers, run_pass
from fedtl.models.split import random_inputs


def check_own_build(model: nn.Module, build: Callable[[], nn.Module], shape: Shape, seed: int) -> None:
    """
    Raise ModelError where ``build``, which gave ``model`` with this seed, gives other initial weights with it, as other processes would
    start from, or where a network of another seed with the saved tensors of ``model`` computes something else.
    """
    if not has_own_layers(model):
        return
    try:
        x = random_inputs(model.eval(), shape)  # a lazy layer gets its shape
        again, other = (_built(number, build, x) for number in (seed, seed + 1))
        state = model.state_dict()
        if changed := next(_different(state, again.state_dict()), None):
            raise ModelError(
                f"its function gives {changed} other values each time; draw initial weights with torch alone, not random or numpy"
            )
        if state.keys() != other.state_dict().keys():
            return  # its layers are drawn at random, too, so nothing can be compared
        other.load_state_dict(state)
        scores, expected = run_pass(other, x), run_pass(model, x)
    except (
        RuntimeError,
        ValueError,
    ):  # tensors of another shape; what is wrong with the model itself, the cut says
        return
    comparable = isinstance(expected, Tensor) and bool(expected.isfinite().all())
    if comparable and not equal(scores, expected):
        raise ModelError(
            "it computes with numbers that it does not save, so its weights alone do not give its predictions: use nn.Parameter, nn.ModuleList "
            "and register_buffer with persistent=True for all that is drawn at random"
        )


def _built(seed: int, build: Callable[[], nn.Module], x: Tensor) -> nn.Module:
    model = seeded_build(seed, build).eval()
    run_pass(model, x)
    return model


def _different(one: dict[str, Tensor], other: dict[str, Tensor]) -> Iterator[str]:
    """Yield the names of tensors that are not the same in both."""
    for name, tensor in one.items():
        if name not in other or not torch.equal(tensor, other[name]):
            yield name
