"""
Weights from a local file. Code in a file is never run: only safetensors is read, or torch's format with ``weights_only``.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedtl.errors import ModelError
from fedtl.models.net import ModelSpec
from fedtl.models.roles import Role
from fedtl.models.state import State

WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which training scripts save a state_dict


def read_weights(path: Path) -> State:
    """Return every tensor of a ``.safetensors``, ``.pth`` or ``.pt`` file, by name. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"model.weights: there is no file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(
                f"model.weights: {path} is not a safetensors file ({error}); set model.weights to another file"
            ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here, UnpicklingError among them
        raise ModelError(
            f"model.weights: {path} is not a file of plain tensors (weights_only), and fedtl loads nothing else; "
            "save its state_dict() as safetensors"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(
            f"model.weights: {path} does not hold a state_dict of tensors; save the model's state_dict()"
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def fit_weights(
    file: State, net: State, roles: dict[str, Role], spec: ModelSpec, where: str
) -> tuple[State, list[str]]:
    """
    Return the tensors of ``file`` by the names of ``net``, and notes on those that were left out. ``where`` names the file.

    A file written by fedtl (names under ``body.``) may hold only the roles that were shared; any other file must hold the
    whole body. A head of another width is left out. Raises ModelError, for a body tensor of another shape too.
    """
    by_fedtl = any(name.startswith("body.") for name in file)
    named = file if by_fedtl else {spec.net_name(name): tensor for name, tensor in file.items()}
    unknown = sorted(named.keys() - net.keys())
    if unknown:
        raise ModelError(
            f"model.weights: {where} holds {unknown[0]!r} and {len(unknown) - 1} more tensors that the model does not have; "
            "check that model.name is the model of this file"
        )
    fitting: State = {}
    notes: list[str] = []
    for name, tensor in sorted(named.items()):
        if tensor.shape == net[name].shape:
            fitting[name] = tensor.to(net[name].dtype)
        elif roles[name] is Role.HEAD:
            notes.append(
                f"{where}: {name} has shape {tuple(tensor.shape)}, this head {tuple(net[name].shape)}: not used"
            )
        else:
            raise ModelError(
                f"model.weights: {where}: {name} has shape {tuple(tensor.shape)}; the model needs "
                f"{tuple(net[name].shape)}; check that model.name and model.settings are those of this file"
            )
    needed = {Role.BODY} if by_fedtl else {Role.BODY, Role.NORM, Role.STATS}
    missing = sorted(name for name in net.keys() - fitting.keys() if roles[name] in needed)
    if missing:
        raise ModelError(
            f"model.weights: {where} has no tensor {missing[0]!r}, and {len(missing) - 1} more of the body are missing; "
            "check that model.name is the model of this file"
        )
    absent = sorted({str(roles[name]) for name in net.keys() - fitting.keys()} - {Role.COUNT})
    if absent:
        notes.append(f"{where}: without {', '.join(absent)}; these start from the seed")
    return fitting, notes
