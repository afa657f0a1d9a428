"""A library's files of pretrained weights: whether they are on this machine, and without a connection, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedtl.errors import ModelError

HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as timm names them in a repository


@dataclass(frozen=True)
class WeightsFile:
    """``source``: where the file is downloaded from; ``place``: where the library looks for it; ``path``: of the file, if it is there."""

    source: str
    place: str
    path: Path | None

    @property
    def is_here(self) -> bool:
        return self.path is not None


def url_file(url: str) -> WeightsFile:
    """Return the file that torch downloads from a URL."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return WeightsFile(url, f"put it at {path}", path if path.is_file() else None)


def hub_file(repository: str, names: tuple[str, ...] = HUB_WEIGHTS) -> WeightsFile:
    """Return the first of these files of a repository of the Hugging Face hub that is here, or else the first."""
    constants = _hub_constants()
    from huggingface_hub import try_to_load_from_cache

    cached = {name: try_to_load_from_cache(repository, name, constants.HF_HUB_CACHE) for name in names}
    here = {name: Path(path) for name, path in cached.items() if isinstance(path, str)}
    place = f"copy the folder models--{repository.replace('/', '--')} of that machine's cache to {constants.HF_HUB_CACHE}"
    name = next(iter(here), names[0])
    return WeightsFile(f"https://huggingface.co/{repository}/{name}", place, here.get(name))


def not_here(model: str, file: WeightsFile, reason: str) -> ModelError:
    """Return the error of a model whose file is not on this machine. ``reason``: why it is not downloaded."""
    return ModelError(
        f"model.name = {model!r}: {file.source} is not on this machine ({reason}); download it where there is a connection, and "
        f"{file.place}, or set model.weights to a file"
    )


@contextmanager
def without_network() -> Iterator[None]:
    """Let the Hugging Face hub's library take files of this machine only while the block lasts."""
    constants = _hub_constants()
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_constants() -> Any:
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise ModelError(
            "models of the Hugging Face hub need a package: pip install 'fedtl[vision]'"
        ) from error
    return constants
