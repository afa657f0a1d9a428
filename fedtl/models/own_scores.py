"""Whether the scores of a row depend on that row alone, however many other rows a model gets with it."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fedtl.errors import ModelError
from fedtl.models.failures import module_failure
from fedtl.models.net import seeded

TOLERANCE = 1e-4  # of scores, which are about 1; for larger ones relative to the largest
MANY = 8  # a row must have the same scores in a batch of this size as in one of 1 and of 2 rows
# Sizes at which a layer that an author wrote may do something else, an odd one and that of evaluation (``training.batches``) among them.
LARGER = (31, 256)
NUMBERS_AT_ONCE = 2**24  # of the inputs of a larger batch: of images of 3 x 224 x 224 px it has 111
LIBRARIES = frozenset({"torch", "torchvision", "timm", "transformers", "fedtl"})


def run_pass(model: nn.Module, x: Tensor, draw: int = 0) -> Tensor:
    """Return the output in the mode of the model, whose random numbers depend on ``draw`` alone. Raises ModelError."""
    try:
        with torch.no_grad(), seeded("cut", draw):
            output: Tensor = model(x)
            return output
    except Exception as error:
        if (line := module_failure(error)) is None:
            raise
        raise ModelError(line.removeprefix("the model fails in ")) from error


def equal(scores: Tensor | None, expected: Tensor) -> bool:
    """Return whether scores are those ``expected``, but for rounding."""
    if scores is None or scores.shape != expected.shape:
        return False
    return bool((scores - expected).abs().max() <= TOLERANCE * max(1.0, float(expected.abs().max())))


def check_own_scores(model: nn.Module, x: Tensor, whole: Tensor) -> None:
    """
    Raise ModelError where evaluation writes buffers, draws random numbers, or mixes rows. ``whole``: the scores of the two rows
    ``x``. Batches of more than MANY rows are tried where a layer is of no library, because only an author's own code asks for
    their size.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # Each row alone: an LSTM that takes the batch for time shows a row the rows before it, and not those after it.
    again, alone = run_pass(model, x, draw=1), [_pass_alone(model, row) for row in x.split(1)]
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, before[name]):
            raise ModelError(
                f"evaluation changes the tensor {name}, so predictions would depend on earlier ones"
            )
    if not equal(again, whole):
        raise ModelError(
            "in evaluation mode the same row gets other scores each time; draw random numbers in training mode only"
        )
    many = _pass_alone(model, torch.cat([x] * (MANY // len(x))))
    if not all(map(equal, alone, whole.split(1))) or not equal(many, torch.cat([whole] * (MANY // len(x)))):
        raise ModelError(f"the scores of a row depend on the other rows of its batch; {_way_out(model)}")
    for size in LARGER if has_own_layers(model) else ():
        _check_larger(model, x, whole, min(size, max(MANY, NUMBERS_AT_ONCE // x[0].numel())))


def _check_larger(model: nn.Module, x: Tensor, whole: Tensor, size: int) -> None:
    """Raise ModelError where rows of a batch of this size have other scores. The rows are those of ``x``, in an order without a pattern."""
    which = torch.randint(len(x), (size,), generator=torch.Generator().manual_seed(size))
    try:
        scores = run_pass(model, x[which])
    except ModelError as error:
        raise ModelError(f"the model takes batches of {MANY} rows and not of {size}: {error}") from error
    if not equal(scores, whole[which]):
        raise ModelError(
            f"the scores of a row depend on the size of its batch: they are others among {size} rows than among {MANY}; "
            "let no layer ask for the number of rows, and mix no rows in evaluation mode"
        )


def has_own_layers(model: nn.Module) -> bool:
    """Return whether a layer is of no library."""
    return any(map(is_own, model.modules()))


def is_own(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] not in LIBRARIES


def _way_out(model: nn.Module) -> str:
    """Return what makes the scores of a row its own."""
    layers = (
        f"{path} is a {type(module).__name__} without running statistics: build it with track_running_stats=True, or "
        "use GroupNorm"
        for path, module in model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is None and "Batch" in type(module).__name__
    )
    return next(
        layers,
        "no layer may mix rows in evaluation mode (an LSTM or a transformer needs batch_first=True)",
    )


def _pass_alone(model: nn.Module, x: Tensor) -> Tensor | None:
    """Return the scores; None where the model takes no batch of this size, as a BatchNorm without statistics takes no single row."""
    try:
        return run_pass(model, x)
    except ModelError:
        return None
