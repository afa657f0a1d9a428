"""The ``predict.py`` of an export: how the network is rebuilt and how inputs are made, in a script that needs no fedtl."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.compat import import_torchvision
from fedtl.models.libraries import import_timm, is_timm
from fedtl.models.registry import MODELS, TORCHVISION

if TYPE_CHECKING:
    from fedtl.experiment.predict import SiloModel

FILE = "predict.py"
TOLERANCE = 1e-4
SCRIPT = '''\
"""Predict without fedtl: python predict.py INPUT, a .csv table, an image, or an .npy of rows. model.json says what is what."""
import csv
import json
import sys
from collections import OrderedDict
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "model.json").read_text())
INPUTS, SHAPE = ABOUT["inputs"], ABOUT["shape"]

def network():
{network}

def read(path):
    if path.endswith(".csv"):
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return np.array([[cell(row, column) for column in INPUTS["columns"]] for row in rows], np.float32)
    if path.endswith(".npy"):
        return np.load(path)
    from PIL import Image
    image = Image.open(path).convert("RGB" if SHAPE[0] == 3 else "L")
    return np.asarray(image if INPUTS["size"] == "native" else image.resize(SHAPE[:0:-1], Image.Resampling.BILINEAR))[None]

def cell(row, column):  # "sex=f" is 1 where the column sex holds f
    name, _, category = column.rpartition("=")
    return float(row[column] or "nan") if column in row else float(row[name] == category)

def prepare(x):
    if len(SHAPE) == 3:  # images [N, H, W] or [N, H, W, C]
        x = x[:, None] if x.ndim == 3 else np.moveaxis(x, 3, 1)
        if x.dtype == np.uint8:
            return torch.tensor(x / 127.5 - 1, dtype=torch.float32)
    if INPUTS["mean"]:
        fill, mean, std = (np.reshape(INPUTS[key], (1, -1) + (1,) * (x.ndim - 2)) for key in ("fill", "mean", "std"))
        x = (np.where(np.isfinite(x), x, fill) - mean) / std
    return torch.tensor(np.nan_to_num(x), dtype=torch.float32)

{task}
def average(x):  # over the models of a mix
    total = 0.0
    for file, weight in ABOUT.get("mix", {{"model.safetensors": 1.0}}).items():
        model = network()
        model.load_state_dict(load_file(HERE / file))
        with torch.no_grad():
            total = total + weight * averaged(model.eval()(x))
    return total

if __name__ == "__main__":
    writer = csv.writer(sys.stdout)
    writer.writerow(["row", "prediction", *HEADS])
    for number, row in enumerate(average(prepare(read(sys.argv[1]))).tolist()):
        cells = (f"{{one:.6g}}" if isinstance(one, float) else one for one in answer(row))
        writer.writerow([number, *cells])
'''


def write_script(model: "SiloModel", out: Path, files: Mapping[str, int]) -> str:
    """
    Write predict.py beside the weights ``files``, if the network that it builds gives the scores of the model. Returns a line on
    what was written, or why nothing was.
    """
    try:
        if model.experiment.data.scale == "dp":
            raise ModelError("its first layer scales the inputs")
        lines = network_code(model)
        _check(model, out, files, lines)
    except Exception as error:  # code that is made of names and sizes may be wrong in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"no {FILE}: {reason}; build {model.settings.name} and load the weights into it"
    (out / FILE).write_text(SCRIPT.format(network=indent(lines, "    "), task=model.task.script))
    return f"{out / FILE}: predictions without fedtl"


def network_code(model: "SiloModel") -> str:
    """Return the body of a function that builds the network with the library's names. Raises ModelError."""
    name, shape, width = model.settings.name, model.shape, model.data.width
    if name in MODELS:
        net = next(iter(model.nets().values()))
        whole = net.get_submodule("body")
        whole.set_submodule(model.plan.classifier, net.get_submodule("head"))
        return f"return {_expression(whole, model.plan.classifier)}"
    if name.startswith(TORCHVISION):
        own = name.removeprefix(TORCHVISION)
        size = f", image_size={shape[1]}" if own.startswith("vit_") else ""
        return (
            f"from torchvision.models import get_model\nreturn get_model({own!r}, num_classes={width}{size})"
        )
    if not is_timm(name):
        raise ModelError("the network is code of a Python program")
    config = import_timm().get_pretrained_cfg(name, allow_unregistered=False)
    size = f", img_size={tuple(shape[1:])}" if getattr(config, "fixed_input_size", False) else ""
    return f"import timm\nreturn timm.create_model({name!r}, num_classes={width}, in_chans={shape[0]}{size})"


def _expression(module: nn.Module, path: str) -> str:
    """Return the expression that builds layers of torch, one after another. Raises ModelError for any other module."""
    if type(module) is nn.Sequential:
        parts = [(name, _expression(child, f"{path}.{name}")) for name, child in module.named_children()]
        numbered = all(name.isdigit() for name, _ in parts)
        written = ",\n".join(part if numbered else f"({name!r}, {part})" for name, part in parts)
        inner = indent(written, "    ")
        return f"nn.Sequential(\n{inner},\n)" if numbered else f"nn.Sequential(OrderedDict([\n{inner},\n]))"
    if (
        not type(module).__module__.startswith("torch.nn.modules")
        or next(module.children(), None) is not None
    ):
        raise ModelError(f"the network has a {type(module).__name__}, which is code of fedtl or of a plugin")
    # Older versions of torch have no such argument of BatchNorm.
    return f"nn.{module!r}".replace("affine=True, bias=True", "affine=True")


def _check(model: "SiloModel", out: Path, files: Mapping[str, int], lines: str) -> None:
    """Raise unless the code builds a network that takes the weights and gives the scores of each model."""
    if "torchvision" in lines:
        import_torchvision()
    names: dict[str, object] = {}
    exec(
        f"from collections import OrderedDict\nfrom torch import nn\ndef network():\n{indent(lines, '    ')}",
        names,
    )
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    for file, net in zip(files, model.nets().values(), strict=True):
        rebuilt: nn.Module = names["network"]()  # type: ignore[operator]
        rebuilt.load_state_dict(load_file(out / file))
        with torch.no_grad():
            if not torch.allclose(rebuilt.eval()(x), net(x), atol=TOLERANCE):
                raise ModelError("the rebuilt network gives other scores")
