"""
torchvision beside a torch without its C++ operators.

torchvision from a package index is built for one torch build. Beside another (a CPU-only torch, often) its
extension does not load and ``import torchvision`` ends in "operator torchvision::nms does not exist", because
it registers shape rules for two operators that were never defined. Defining their schemas first makes models,
transforms and timm work; calling ``torchvision.ops.nms`` itself still fails, and says so.
"""

import importlib
import logging
from types import ModuleType

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list[torch.library.Library] = []  # a schema lives as long as its Library object


def import_torchvision() -> ModuleType:
    """``torchvision``, imported so that a missing C++ extension does not matter; a note is logged if it is."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    define_missing_operators()
    logging.getLogger(__name__).info(
        "torchvision's compiled operators do not fit this torch; models and transforms work, torchvision.ops does not"
    )
    return importlib.import_module("torchvision")


def define_missing_operators() -> list[str]:
    """Define the schemas that torchvision needs and this process lacks; returns the names that it defined."""
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(SCHEMAS[name])
        _kept.append(library)
    return missing
