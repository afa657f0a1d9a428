"""The precision in which a model computes. Weights, losses and statistics are float32 in every case."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fedtl.errors import ConfigError

DTYPES = {
    "float32": "every operation in single precision",
    "tf32": "matrix products and convolutions on CUDA with a 10-bit mantissa",
    "bf16": "bfloat16 in the layers that torch.autocast chooses",
}


def set_precision(dtype: str, device: torch.device) -> None:
    """
    Set the precision of this process. By default torch lets convolutions on CUDA use TF32; here only "tf32" does.

    Raises ConfigError for TF32 without CUDA.
    """
    if device.type == "cuda":
        rounded = dtype != "float32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rounded
    elif dtype == "tf32":
        raise ConfigError(
            f'model.dtype = "tf32" needs CUDA, but the device is {device}; use "float32" or "bf16"'
        )


def autocast_for(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a forward pass runs."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bf16" else nullcontext()


def to_float32(x: Tensor) -> Tensor:
    """Return the output of a forward pass in the precision of losses and metrics."""
    return x.float() if x.dtype == torch.bfloat16 else x
