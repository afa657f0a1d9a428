"""
Weights from a local file. Code in a file is never run: only safetensors is read, or torch's format with ``weights_only``.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedtl.errors import ModelError
from fedtl.models.efficientnet_names import timm_names
from fedtl.models.net import ModelSpec, tied_names
from fedtl.models.roles import Role
from fedtl.models.state import State

PARTS = (
    "_orig_mod",
    "module",
    "_forward_module",
)  # that torch.compile and parallel training write into names
SUFFIXES = (".safetensors", ".pth", ".pt")
WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which training scripts save a state_dict


def read_weights(path: Path) -> State:
    """Return every tensor of a ``.safetensors``, ``.pth`` or ``.pt`` file, by name. Raises ModelError."""
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        others = sorted(file.name for file in folder.glob("*") if file.suffix in SUFFIXES)
        near = f"; {folder} holds {', '.join(others[:6])}: name one of them" if others else ""
        raise ModelError(f"model.weights: there is no file {path}{near}")
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
    return {str(name): value for name, value in content.items()}


def _check_ordinary(file: State, where: str) -> None:
    """Raise ModelError for a tensor that has no plain values."""
    for name, tensor in file.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ModelError(
                f"model.weights: {where}: {name} is sparse, quantized or without values; save the tensors of an ordinary model"
            )


def fit_weights(
    file: State, net: State, roles: dict[str, Role], spec: ModelSpec, where: str
) -> tuple[State, list[str]]:
    """
    Return the tensors of ``file`` by the names of ``net``, and notes on those that were left out. ``where`` names the file.

    A file written by fedtl has the net's names and may hold only the roles that were shared; any other file has the
    library's and must hold the whole body. A head of another width is left out. Raises ModelError, for a body tensor of another
    shape and for a value that is not finite, too.
    """
    _check_ordinary(file, where)
    names, by_fedtl = file_names(file, net, spec)
    named = _untied({name: file[own] for name, own in names.items()}, spec, where)
    named, notes = (named, list[str]()) if by_fedtl else _of_core(named, net, spec, where)
    if unknown := sorted(named.keys() - net.keys()):
        raise ModelError(
            f"model.weights: {where} holds {unknown[0]!r} and {len(unknown) - 1} more tensors that the model does not have; "
            "check that model.name is the model of this file"
        )
    fitting: State = {}
    for name, tensor in sorted(named.items()):
        tensor = spec.net_tensor(name, tensor)
        if roles[name] is Role.COUNT:
            if tensor.numel() == net[name].numel():  # some libraries write a counter in the shape (1,)
                fitting[name] = tensor.reshape(net[name].shape).to(net[name].dtype)
        elif tensor.shape == net[name].shape:
            fitting[name] = _finite(tensor, net[name].dtype, spec.library_name(name), where)
        elif roles[name] is Role.HEAD:
            notes.append(
                f"{where}: {name} has shape {tuple(tensor.shape)}, this head {tuple(net[name].shape)}: not used"
            )
        else:
            raise ModelError(
                f"model.weights: {where}: {name} has shape {tuple(tensor.shape)}; the model needs "
                f"{tuple(net[name].shape)}; check that model.name and model.settings are those of this file"
            )
    _check_complete(net.keys() - fitting.keys(), roles, spec, where, by_fedtl)
    absent = sorted(
        {str(roles[name]) for name in net.keys() - fitting.keys()}
        - ({Role.COUNT} | ({Role.BODY} if spec.core else set()))
    )
    if absent:
        notes.append(f"{where}: without {', '.join(absent)}; these start from the seed")
    return fitting, notes


def _check_complete(
    absent: Iterable[str], roles: dict[str, Role], spec: ModelSpec, where: str, by_fedtl: bool
) -> None:
    """Raise ModelError where tensors of the body that a file must hold are ``absent``."""
    needed = {Role.BODY} if by_fedtl else {Role.BODY, Role.NORM, Role.STATS}
    missing = sorted(
        name
        for name in absent
        if roles[name] in needed and (not spec.core or spec.library_name(name) in spec.core)
    )
    if missing:
        raise ModelError(
            f"model.weights: {where} has no tensor {missing[0]!r}, and {len(missing) - 1} more of the body are missing; "
            "check that model.name is the model of this file"
        )


def _of_core(named: State, net: State, spec: ModelSpec, where: str) -> tuple[State, list[str]]:
    """
    Return the tensors of a file without those of parts that the library has for other tasks, and notes on these and on parts of the model
    that the file does not have. All of them where the model has no core.
    """
    if not spec.core:
        return named, []
    prefix = _prefix(spec.core)
    others = {
        name: tensor
        for name, tensor in named.items()
        if name not in net
        and (not spec.library_name(name).startswith(prefix) or not tensor.is_floating_point())
    }
    notes = []
    if listed := sorted(spec.library_name(name) for name, one in others.items() if one.is_floating_point()):
        notes.append(f"{where}: {listed[0]} and {len(listed) - 1} more tensors are of another task: not used")
    new = sorted(
        library
        for name in net.keys() - named.keys()
        if (library := spec.library_name(name)) not in spec.core and not name.startswith("head.")
    )
    if new:
        notes.append(f"{where}: without {', '.join(new)}; these start from the seed")
    return {name: tensor for name, tensor in named.items() if name not in others}, notes


def file_names(file: Iterable[str], net: Iterable[str], spec: ModelSpec) -> tuple[dict[str, str], bool]:
    """
    Return the file's name of each tensor by its name in the net, and whether the file has the net's names, as a file of
    fedtl's has, not the library's. Prefixes that torch.compile and parallel training write, and one before every name, are
    taken off, and names of efficientnet-pytorch are replaced by timm's, where the model then has more of the names.
    """
    known, best, most = frozenset(net), (dict[str, str](), False), -1
    plains = list(_without_prefixes(file))
    if spec.core:
        plains = [{_today(name): own for name, own in plain.items()} for plain in plains]
        prefix = _prefix(spec.core)  # files of the transformer alone lack this prefix
        plains += [{prefix + name: own for name, own in plain.items()} for plain in plains]
    plains += [named for plain in plains if (named := timm_names(plain, map(spec.library_name, known)))]
    for plain in plains:
        for by_fedtl in (False, True):
            names = plain if by_fedtl else {spec.net_name(name): own for name, own in plain.items()}
            if (count := len(names.keys() & known)) > most:
                best, most = (names, by_fedtl), count
    return best


def _prefix(core: Iterable[str]) -> str:
    return min(core).split(".", 1)[0] + "."


def _today(name: str) -> str:
    """Return the name of a tensor in transformers today: the first models had gamma and beta in their LayerNorm."""
    layer, _, last = name.rpartition(".")
    renamed = {"gamma": "weight", "beta": "bias"} if layer.endswith("LayerNorm") else {}
    return f"{layer}.{renamed.get(last, last)}" if layer else name


def _without_prefixes(file: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the file's names by themselves, and by what remains of them with one more prefix taken off each time."""
    short = {name: name for name in file}
    yield short
    for part in PARTS:
        short = {".".join(one for one in name.split(".") if one != part): own for name, own in short.items()}
        yield short
    while all("." in name for name in short) and len({name.split(".", 1)[0] for name in short}) == 1:
        short = {name.split(".", 1)[1]: own for name, own in short.items()}
        yield short


def _untied(named: State, spec: ModelSpec, where: str) -> State:
    """Return the tensors with one name each. Raises ModelError where the file holds two values for one tensor of the model."""
    named = dict(named)
    for name, first in tied_names(spec.body).items():
        other = named.pop(f"body.{name}", None)
        if other is not None and not torch.equal(named.setdefault(f"body.{first}", other), other):
            raise ModelError(
                f"model.weights: {where}: {name} and {first} differ, but are one tensor in this model; "
                "check that model.name is the model of this file"
            )
    return named


def _finite(tensor: Tensor, dtype: torch.dtype, name: str, where: str) -> Tensor:
    if dtype.is_floating_point and not tensor.is_floating_point():
        raise ModelError(
            f"model.weights: {where}: {name} is {tensor.dtype}, not floating point; save the model's own weights"
        )
    values = tensor.to(dtype)
    if not values.isfinite().all():
        what = "NaN" if values.isnan().any() else "a value that is not finite"
        raise ModelError(f"model.weights: {where} holds {what} in {name}; use another file")
    return values
