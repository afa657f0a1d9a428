"""Whether all that a model computes with are tensors that fedtl can train, copy, keep and send."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedtl.errors import ModelError


def check_tensors(model: nn.Module) -> None:
    """Raise ModelError for complex numbers, which no method averages, and for sparse gradients, which few optimisers take."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_complex():
            raise ModelError(
                f"{name} holds complex numbers, and fedtl needs real ones; keep torch.view_as_real(...) of it"
            )
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ModelError(
                f"{name} ({type(module).__name__}) gives sparse gradients; build it with sparse=False, which computes the same"
            )


def check_copies(model: nn.Module) -> None:
    """Raise ModelError for a layer that keeps a computed tensor, which torch does not copy; it was called with gradients before."""
    for name, module in model.named_modules():
        if any(isinstance(value, Tensor) and not value.is_leaf for value in vars(module).values()):
            raise ModelError(
                f"{name or 'the model'} ({type(module).__name__}) keeps a tensor that it computed, which cannot be copied; use "
                "torch.nn.utils.parametrizations for weight_norm and spectral_norm, and keep no outputs in self"
            )


def check_kept(body: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Raise ModelError for a buffer that training changed, and that the model does not save. ``before``: all buffers."""
    saved = body.state_dict(keep_vars=True)
    for name, buffer in body.named_buffers():
        if name not in saved and not torch.equal(buffer, before[name]):
            raise ModelError(
                f"training changes {name}, which the model does not save: register it with persistent=True"
            )
