"""
torchvision with a torch build that cannot load its C++ operators.

A torchvision from a package index is built for one torch build. With another one (often a CPU-only torch) its extension
does not load, and ``import torchvision`` fails with "operator torchvision::nms does not exist", because it registers shape
rules for two operators that are not defined. With their schemas defined first, models, transforms and timm work; only
calls of ``torchvision.ops.nms`` fail.
"""

import importlib
import logging
from types import ModuleType

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a schema exists only as long as its Library object


def import_torchvision() -> ModuleType:
    """Return the module ``torchvision``, without its C++ extension if that does not load; a note is logged then."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    define_missing_operators()
    logging.getLogger(__name__).info(
        "torchvision's compiled operators do not match this torch; models and transforms work, torchvision.ops does not"
    )
    return importlib.import_module("torchvision")


def import_transforms() -> ModuleType:
    """Return the module ``torchvision.transforms.v2``. Raises ImportError without torchvision."""
    import_torchvision()
    return importlib.import_module("torchvision.transforms.v2")


def import_tensor_types() -> ModuleType:
    """Return the module ``torchvision.tv_tensors``. Raises ImportError without torchvision."""
    import_torchvision()
    return importlib.import_module("torchvision.tv_tensors")


def define_missing_operators() -> list[str]:
    """Define the operators' schemas that this process does not have. Returns their names."""
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(SCHEMAS[name])
        _libraries.append(library)
    return missing
