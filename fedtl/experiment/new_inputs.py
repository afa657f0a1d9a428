"""New rows as the inputs of a model that was trained on others of their kind."""

import torch
from torch import Tensor

from fedtl.data.preprocess import Inputs
from fedtl.data.source import Array
from fedtl.errors import DataError
from fedtl.models.net import Shape


def prepared_inputs(x: Array, inputs: Inputs, shape: Shape) -> Tensor:
    """
    Return rows as a source stores them as the model's training inputs were prepared [N, ...]. ``shape``: of one input of the model.
    Raises DataError.
    """
    columns = inputs.columns
    of_columns = (x.ndim, *x.shape[-1:]) == (3 if inputs.sequence else 2, len(columns))
    if x.dtype.kind not in "uif" or not 2 <= x.ndim <= 4 or (columns and not of_columns):
        found = f"{x.dtype} of shape {list(x.shape)}"
        kind = "series of steps with {} channels" if inputs.sequence else "rows of {} columns"
        expected = f"{kind.format(len(columns))}: {', '.join(columns)}" if columns else _kind(inputs)
        raise DataError(
            f"the input is {found}, but the model was trained on {expected}; pass inputs of this kind"
        )
    if problem := inputs.unit_problem(x):
        raise DataError(f"the input holds {x.dtype}, but the model was trained on {problem}; convert it")
    if not len(x):
        raise DataError("the input has no rows")
    made = torch.from_numpy(inputs.apply(x))
    if tuple(made.shape[1:]) != shape:
        raise DataError(
            f"the inputs have shape {tuple(made.shape[1:])}, but the model was trained on {shape}"
        )
    return made


def _kind(inputs: Inputs) -> str:
    return "volumes [N, D, H, W]" if inputs.kind == "volumes" else "images"
