"""
Weights from a local file into a net. No code in a file is ever run: safetensors, or torch's own loader with
``weights_only``.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedtl.errors import ModelError
from fedtl.models.net import ModelSpec
from fedtl.models.roles import Role
from fedtl.models.state import State

WRAPPERS = ("state_dict", "model", "model_state_dict")


def read_weights(path: Path) -> State:
    """Every tensor of a ``.safetensors``, ``.pth`` or ``.pt`` file, by name."""
    if not path.is_file():
        raise ModelError(f"model.weights: there is no file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"model.weights: {path} is not a safetensors file ({error})") from error
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds here, UnpicklingError among them
        raise ModelError(
            f"model.weights: {path} does not load as plain tensors (weights_only), and nothing else is loaded; "
            "save its state_dict() as safetensors"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"model.weights: {path} holds no state_dict of tensors")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def fit_weights(
    file: State, net: State, roles: dict[str, Role], blueprint: ModelSpec, where: str
) -> tuple[State, list[str]]:
    """
    The part of ``file`` that belongs into ``net``, under the net's names, and notes on what was left out.

    A file of fedtl's own (names under ``body.``) may hold only the roles that were shared; any other must hold
    the whole body. A head of another width is left out; a body tensor of another shape is an error.
    """
    own = any(name.startswith("body.") for name in file)
    named = file if own else {blueprint.net_name(name): tensor for name, tensor in file.items()}
    unknown = sorted(named.keys() - net.keys())
    if unknown:
        raise ModelError(
            f"model.weights: {where} holds {unknown[0]!r} and {len(unknown) - 1} more that the model has not; "
            "is model.name the model that the file was made with?"
        )
    taken: State = {}
    notes: list[str] = []
    for name, tensor in sorted(named.items()):
        if tensor.shape == net[name].shape:
            taken[name] = tensor.to(net[name].dtype)
        elif roles[name] is Role.HEAD:
            notes.append(
                f"{where}: {name} is {tuple(tensor.shape)}, the head here is {tuple(net[name].shape)}: left out"
            )
        else:
            raise ModelError(
                f"model.weights: {where}: {name} is {tuple(tensor.shape)}, but the model's is {tuple(net[name].shape)}"
            )
    needed = {Role.BODY} if own else {Role.BODY, Role.NORM, Role.STATS}
    missing = sorted(name for name in net.keys() - taken.keys() if roles[name] in needed)
    if missing:
        raise ModelError(
            f"model.weights: {where} lacks {missing[0]!r} and {len(missing) - 1} more of the body"
        )
    left = sorted({str(roles[name]) for name in net.keys() - taken.keys()} - {Role.COUNT})
    return taken, notes + ([f"{where}: without {', '.join(left)}, which start fresh"] if left else [])


# Old names, until all callers are merged.
read = read_weights
fit = fit_weights
