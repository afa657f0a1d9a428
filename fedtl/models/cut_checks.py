"""Whether all that a model computes with are tensors that fedtl can train, copy, keep and send."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fedtl.errors import ModelError
from fedtl.models.own_scores import is_own

PlainNumbers = dict[tuple[str, str], object]  # by the path of a module and the name of its attribute


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


def check_registered(model: nn.Module) -> None:
    """Raise ModelError for layers and trained tensors that torch does not know of, such as those in a list: they are neither trained nor saved."""
    known = {id(weight) for weight in model.parameters()}
    for path, module in model.named_modules():
        for name, value in vars(module).items() if is_own(module) else ():
            if name.startswith("_"):  # of torch
                continue
            unknown = [weight for weight in _trained_in(value) if id(weight) not in known]
            if unknown:
                raise ModelError(
                    f"{path or 'the model'} ({type(module).__name__}) keeps layers or trained tensors in {name}, where torch does not find them, so "
                    "they would be neither trained nor saved: use nn.ModuleList, nn.ModuleDict or nn.Parameter"
                )


def _trained_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors that require gradients in an attribute of a module."""
    match value:
        case nn.Module():
            yield from (weight for weight in value.parameters() if weight.requires_grad)
        case Tensor() if value.requires_grad and value.is_leaf:
            yield value
        case list() | tuple():
            for part in value:
                yield from _trained_in(part)
        case dict():
            yield from _trained_in(list(value.values()))


def plain_numbers(model: nn.Module) -> PlainNumbers:
    """Return the numbers and texts that an author's own layers keep outside of tensors."""
    return {
        (path, name): value
        for path, module in model.named_modules()
        if is_own(module)
        for name, value in vars(module).items()
        if type(value) in (int, float, bool, str) and name != "training"
    }


def check_plain_numbers(model: nn.Module, before: PlainNumbers) -> None:
    """Raise ModelError for such a number that training changed: it is not saved, and all silos of a process would share it."""
    for (path, name), value in plain_numbers(model).items():
        if before.get((path, name), value) != value:
            raise ModelError(
                f"training changes {name} of {path or 'the model'} ({type(model.get_submodule(path)).__name__}), which is no tensor, so it is not "
                "saved, and silos would share it: register it with register_buffer, persistent=True"
            )
