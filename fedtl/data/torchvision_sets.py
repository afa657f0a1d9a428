"""
Named image sets of torchvision (``data.sets``), from the files that their publishers give, below ``data.path``. Nothing is
downloaded unless ``data.download`` says so.

The list is closed. CIFAR's files are pickles, which can run code: torchvision compares the MD5 of each with its publisher's
before it opens one, so no other file is ever unpickled. SVHN's files are compared in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedtl._util.torchvision_import import import_torchvision
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError, first_line


@dataclass(frozen=True)
class NamedSet:
    """
    ``kind``: torchvision's class, whose arguments are in the style of ``split`` (split="train") or not (train=True). ``files``:
    where they lie below ``data.path``. ``words``: whether the labels are words, the set's own; otherwise digits.
    """

    kind: str
    files: tuple[str, ...]
    words: bool = False
    split: bool = False


def _idx(folder: str) -> tuple[str, ...]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return tuple(f"{folder}/raw/{part}-{kind}" for part in ("train", "t10k") for kind in kinds)


def _batches(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


CIFAR10 = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
SETS = {
    "mnist": NamedSet("MNIST", _idx("MNIST")),
    "fashion_mnist": NamedSet("FashionMNIST", _idx("FashionMNIST"), words=True),
    "kmnist": NamedSet("KMNIST", _idx("KMNIST"), words=True),
    "usps": NamedSet("USPS", ("usps.bz2", "usps.t.bz2")),
    "svhn": NamedSet("SVHN", ("train_32x32.mat", "test_32x32.mat"), split=True),
    "cifar10": NamedSet("CIFAR10", _batches("cifar-10-batches-py", *CIFAR10), words=True),
    "cifar100": NamedSet("CIFAR100", _batches("cifar-100-python", "train", "test", "meta"), words=True),
}
ABOUT = f"image sets by name, each a silo, or one dealt (data.deal): data.sets of {', '.join(SETS)}"


def silos(settings: DataSettings) -> Sequence[str]:
    return list(settings.sets)


def read(settings: DataSettings, name: str) -> Raw:
    """Return the training and the test rows of a set, with the labels that it names. Raises DataError."""
    wanted, root = SETS[name], Path(settings.path)
    missing = [file for file in wanted.files if not (root / file).is_file()]
    if missing and not settings.download:
        raise DataError(
            f"data.sets: {name} has no file {root / missing[0]} ({len(missing)} of {len(wanted.files)} are missing); put the set's "
            f"files there ({wanted.kind} of torchvision.datasets names their addresses), or set data.download = true"
        )
    try:
        import_torchvision()
        from torchvision import datasets
    except ImportError as error:
        raise DataError("source \"torchvision\" needs a package: pip install 'fedtl[vision]'") from error
    try:
        parts = [
            _part(getattr(datasets, wanted.kind), wanted, settings, training) for training in (True, False)
        ]
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        reason = first_line(error)
        raise DataError(
            f"data.sets: the files of {name} in {root} cannot be read ({reason}); replace them by the publisher's"
        ) from error
    return Raw(parts[0], test=parts[1])


def _part(kind: Any, wanted: NamedSet, settings: DataSettings, training: bool) -> Part:
    if wanted.split:
        rows = kind(settings.path, download=settings.download, split="train" if training else "test")
    else:
        rows = kind(settings.path, download=settings.download, train=training)
    x, y = np.asarray(rows.data), np.asarray(rows.labels if wanted.split else rows.targets, np.int64)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} images and {len(y)} labels")
    if x.ndim == 4 and x.shape[1] == 3:
        x = np.moveaxis(x, 1, 3)
    return Part(np.ascontiguousarray(x), _names(y, rows.classes) if wanted.words else y)


def _names(y: Array, classes: Sequence[str]) -> Array:
    """Return the labels [N] as the words that the set names them."""
    return np.array(classes)[y]
