"""The ``predict.py`` of an export: how the network is rebuilt and how inputs are made, in a script that needs no fedtl."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn

from fedtl._util.torchvision_import import import_torchvision
from fedtl.errors import ModelError, first_line
from fedtl.experiment.export_columns import columns_code, columns_in
from fedtl.experiment.export_pictures import READ as PICTURE
from fedtl.experiment.export_text import text_network
from fedtl.models.folder_files import is_folder_name
from fedtl.models.libraries import TORCHVISION, is_hub_name, is_timm, timm_config
from fedtl.models.pixels import pixel_scale
from fedtl.models.registry import MODELS
from fedtl.models.written import Written

if TYPE_CHECKING:
    from fedtl.experiment.predict import SiloModel

FILE = "predict.py"
TOLERANCE = 1e-4
IMPORTS = """\
from itertools import pairwise
import torch.nn.functional as F
from torch import Tensor
"""
SCRIPT = '''\
"""Predict without fedtl: python predict.py INPUT, a .csv table, an image, or an .npy of rows. model.json says what is what."""
import csv
import json
import sys
from collections import OrderedDict
from functools import cache
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "model.json").read_text())
INPUTS, SHAPE, TABLE = ABOUT["inputs"], ABOUT["shape"], ABOUT.get("table")

def network():
{network}

def given():
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit()
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("predict.py: name one file of inputs that exists; --help says which kinds")
    return sys.argv[1]

def read(path):
    if len(SHAPE) == 2 and not path.endswith(".npy"):
        sys.exit(f"predict.py: pass series of measurements as an .npy [N, {{SHAPE[1]}} steps, {{SHAPE[0]}} channels]")
    if path.endswith(".csv"):
        return table(path)
    if path.endswith(".npy"):
        return np.load(path)
    return picture(path)

{picture}
{table}
def prepare(x):
    given = x.shape
    if len(SHAPE) > 2 and x.ndim in (3, 4):  # images [N, H, W] or [N, H, W, C], or volumes [N, D, H, W]
        x = x[:, None] if x.ndim == 3 or len(SHAPE) == 4 else np.moveaxis(x, 3, 1)
    elif len(SHAPE) == 2 and x.ndim == 3:  # series [N, steps, channels]
        x = np.moveaxis(x, 1, 2)
    if [*x.shape[1:]] != SHAPE or not len(x):
        sys.exit(f"predict.py: the rows have the shape {{[*given]}}; the model takes [N, {{', '.join(map(str, SHAPE))}}], with channels last")
    if len(SHAPE) > 2:
        low, high = INPUTS["pixel_range"] or (0, 65535 if x.dtype == np.uint16 else 255)
        if INPUTS["pixel_range"] or (x.dtype in (np.uint8, np.uint16) and not INPUTS["mean"]):
            mean, std = (np.reshape(one, (-1, *[1] * (x.ndim - 2))) for one in ABOUT.get("pixel_scale", [[0.5], [0.5]]))
            return torch.tensor(((np.clip(x.astype(np.float64), low, high) - low) / (high - low) - mean) / std, dtype=torch.float32)
    for each in INPUTS["tables"]:  # of target-encoded columns
        means, column = dict(zip(each["codes"], each["values"])), each["column"]
        x = x.astype(np.float64)
        x[:, column] = [means.get(-1.0 if np.isnan(code) else code, each["other"]) for code in x[:, column]]
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
    made = average(prepare(read(given()))).tolist()
    writer = csv.writer(sys.stdout)
    writer.writerow(["row", "prediction", *HEADS])
    for number, row in enumerate(made):
        cells = (f"{{one:.6g}}" if isinstance(one, float) else one for one in answer(row))
        writer.writerow([number, *cells])
'''


def write_script(model: "SiloModel", out: Path, files: Mapping[str, int]) -> str:
    """
    Write predict.py next to the weights ``files``, if the network that it builds gives the scores of the model. Returns a line on
    what was written, or why nothing was.
    """
    try:
        if model.experiment.data.scale == "dp":
            raise ModelError("its first layer scales the inputs")
        lines = network_code(model)
        _check(model, out, files, lines)
    except Exception as error:  # code that is made of names and sizes may be wrong in many ways
        reason = first_line(error)
        return f"no {FILE}: {reason}; build {model.settings.name} and load the weights into it"
    columns = columns_in(model.experiment.data, model.inputs)
    code = columns_code(columns) if columns else ""
    parts = {"network": indent(lines, "    "), "table": code, "picture": PICTURE, "task": model.task.script}
    (out / FILE).write_text(SCRIPT.format(**parts))
    return f"{out / FILE}: predictions without fedtl"


def network_code(model: "SiloModel") -> str:
    """Return the body of a function that builds the network with the library's names. Raises ModelError."""
    name, shape, width = model.settings.name, model.shape, model.data.width
    if name in MODELS:
        net = next(iter(model.nets().values()))
        whole = net.get_submodule("body")
        whole.set_submodule(model.plan.classifier, net.get_submodule("head"))
        expression, path = _expression(whole, model.plan.classifier), model.plan.classifier
        if isinstance(whole, Written):  # which has the classifier inside, of another width
            head = _expression(net.get_submodule("head"), path)
            return f"{_own_code(whole)}model = {expression}\nmodel.{path} = {head}\nreturn model"
        return f"{_own_code(whole)}return {expression}"
    if name.startswith(TORCHVISION):
        own = name.removeprefix(TORCHVISION)
        size = f", image_size={shape[1]}" if own.startswith("vit_") else ""
        return (
            f"from torchvision.models import get_model\nreturn get_model({own!r}, num_classes={width}{size})"
        )
    if is_folder_name(name):
        return text_network(model)
    if not (is_timm(name) or is_hub_name(name)):
        raise ModelError("the network is code of a Python program")
    config = timm_config(name)
    size = f", img_size={tuple(shape[1:])}" if getattr(config, "fixed_input_size", False) else ""
    return f"import timm\nreturn timm.create_model({name!r}, num_classes={width}, in_chans={shape[0]}{size})"


def _own_code(module: nn.Module) -> str:
    """Return the source of fedtl's own layers in the network, and of what they are built of."""
    parts = dict.fromkeys(
        part for one in module.modules() if isinstance(one, Written) for part in one.written_with()
    )
    return IMPORTS + "".join(dedent(inspect.getsource(part)) + "\n" for part in parts) if parts else ""


def _expression(module: nn.Module, path: str) -> str:
    """Return the expression that builds layers of torch, one after another. Raises ModelError for any other module."""
    if type(module) is nn.Sequential:
        parts = [(name, _expression(child, f"{path}.{name}")) for name, child in module.named_children()]
        numbered = all(name.isdigit() for name, _ in parts)
        written = ",\n".join(part if numbered else f"({name!r}, {part})" for name, part in parts)
        inner = indent(written, "    ")
        return f"nn.Sequential(\n{inner},\n)" if numbered else f"nn.Sequential(OrderedDict([\n{inner},\n]))"
    if isinstance(module, Written):
        return f"{type(module).__name__}{module.arguments!r}"
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
    names: dict[str, object] = {"HERE": out, "json": json}
    exec(
        f"from collections import OrderedDict\nimport torch\nfrom torch import nn\ndef network():\n{indent(lines, '    ')}",
        names,
    )
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    pixels = model.settings.pixels
    scaled = x if isinstance(pixels, str) else pixel_scale(pixels).from_signed(x)
    for file, net in zip(files, model.nets().values(), strict=True):
        rebuilt: nn.Module = names["network"]()  # type: ignore[operator]
        rebuilt.load_state_dict(load_file(out / file))
        with torch.no_grad():
            if not torch.allclose(rebuilt.eval()(scaled), net(x), atol=TOLERANCE):
                raise ModelError("the rebuilt network gives other scores")
