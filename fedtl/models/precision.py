"""The arithmetic in which a net is trained and evaluated; weights, losses and statistics are float32 in all of them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fedtl.errors import ConfigError

DTYPES = {
    "float32": "every product in single precision",
    "tf32": "products on CUDA with a mantissa of 10 bits",
    "bf16": "layers that gain by it in bfloat16, as torch.autocast chooses",
}


def set_precision(dtype: str, device: torch.device) -> None:
    """
    Once in a process. torch's own default lets convolutions on CUDA round to TF32; here that is asked for.

    Raises ConfigError for TF32 without CUDA.
    """
    if device.type == "cuda":
        rounded = dtype != "float32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rounded
    elif dtype == "tf32":
        raise ConfigError(f"model.dtype = 'tf32' needs CUDA, and this is on {device}; use float32 or bf16")


def autocast_for(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """Around a forward pass."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bf16" else nullcontext()


def to_float32(x: Tensor) -> Tensor:
    """What came out of a forward pass, in the precision that losses and metrics are computed in."""
    return x.float() if x.dtype == torch.bfloat16 else x


# Old names, until all callers are merged.
single = to_float32
arithmetic = autocast_for
set_arithmetic = set_precision
