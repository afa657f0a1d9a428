"""
Random changes of training images (data augmentation): a closed list of bounded transforms of torchvision, by the names that
``train.augment`` uses.

Each row is changed by itself, with random numbers that depend on the address of the step and the number of the row alone. So
what a row becomes does not depend on the other rows of its batch, on the process, or on where a run was interrupted. The changes
are made on the CPU and on the rows as they are stored, before a batch goes to the device, so every device sees the same images.
A mask moves with its image: its pixels take the nearest class, and those that were not in the image have none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedtl._util.labels import NO_LABEL
from fedtl._util.randomness import address
from fedtl._util.settings import Fraction
from fedtl._util.torchvision_import import import_tensor_types, import_transforms
from fedtl.data.dataset import Dataset
from fedtl.errors import ConfigError, ModelError
from fedtl.models.net import Shape

Pixels = Annotated[int, Ge(1), Le(64)]
Degrees = Annotated[float, Gt(0), Le(180)]
Area = Annotated[float, Ge(0.05), Le(1)]
Share = Annotated[float, Gt(0.02), Le(0.5)]
Hue = Annotated[float, Ge(0), Le(0.5)]
Sigma = Annotated[float, Gt(0.1), Le(5)]
Transform = Callable[..., Any]  # of one image [C, H, W], or of an image and its mask [H, W]
Fill = float | dict[type, float]


class Change(Protocol):
    """One kind of change. ``only_pixels``: it is defined for pixels of 0..255 only."""

    only_pixels: bool

    def transform(self, v2: ModuleType, size: tuple[int, int], fill: Fill) -> Any:
        """
        Return the transform of ``torchvision.transforms.v2`` for images of this height and width. ``fill``: what pixels hold that
        were not in the image.
        """
        ...


@dataclass(frozen=True)
class Flip:
    """Mirror an image left to right, or with ``vertical`` top to bottom, with this probability."""

    probability: Fraction = 0.5
    vertical: bool = False
    only_pixels = False

    def transform(self, v2: ModuleType, size: tuple[int, int], fill: Fill) -> Any:
        return (v2.RandomVerticalFlip if self.vertical else v2.RandomHorizontalFlip)(self.probability)


@dataclass(frozen=True)
class Shift:
    """Move an image by up to ``pixels`` in each direction, with zeros where nothing is left (He et al., 2016: 4 of 32)."""

    pixels: Pixels = 4
    only_pixels = False

    def transform(self, v2: ModuleType, size: tuple[int, int], fill: Fill) -> Any:
        return v2.RandomCrop(size, padding=self.pixels, fill=fill)


@dataclass(frozen=True)
class Crop:
    """Cut out a rectangle of ``area`` to 1 of the image, 3/4 to 4/3 as wide as high, and resize it (Szegedy et al., 2015)."""

    area: Area = 0.5
    only_pixels = False

    def transform(self, v2: ModuleType, size: tuple[int, int], fill: Fill) -> Any:
        return v2.RandomResizedCrop(size, scale=(self.area, 1.0), antialias=True)


@dataclass(frozen=True)
class Rotate:
    """Turn an image by at most ``degrees`` in either direction, with zeros in the corners."""

    degrees: Degrees = 10.0
    only_pixels = False

    def transform(self, v2: ModuleType, size: tuple[int, int], fill: Fill) -> Any:
        return v2.RandomRotation(self.degrees, interpolation=v2.InterpolationMode.BILINEAR, fill=fill)


@dataclass(frozen=True)
class Jitter:
    """Multiply brightness, contrast and saturation by 1 - s to 1 + s, and turn the hue by at most ``hue`` of its circle."""

    brightness: Fraction = 0.2
    contrast: Fraction = 0.2
    saturation: Fraction = 0.0
    hue: Hue = 0.0
    only_pixels = True

    def transform(self, v2: ModuleType, size: tuple[int, int], fill: Fill) -> Any:
        return v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)


@dataclass(frozen=True)
class Blur:
    """Blur an image with a Gaussian of 0.1 to ``sigma`` pixels."""

    sigma: Sigma = 1.0
    only_pixels = False

    def transform(self, v2: ModuleType, size: tuple[int, int], fill: Fill) -> Any:
        width = 2 * min(int(3 * self.sigma + 0.5), (min(size) - 1) // 2) + 1  # the filter fits into the image
        return v2.GaussianBlur(max(width, 1), (0.1, self.sigma))


@dataclass(frozen=True)
class Erase:
    """Set a rectangle of up to ``share`` of the image to zero, in half of the images (Zhong et al., 2020)."""

    share: Share = 0.2
    only_pixels = False

    def transform(self, v2: ModuleType, size: tuple[int, int], fill: Fill) -> Any:
        return v2.RandomErasing(0.5, (0.02, self.share))


CHANGES: dict[str, Callable[..., Change]] = {
    **{"flip": Flip, "shift": Shift, "crop": Crop, "rotate": Rotate},
    **{"jitter": Jitter, "blur": Blur, "erase": Erase},
}


def check_augmentation(changes: Sequence[Change], shape: Shape, pixels: bool, masks: bool = False) -> None:
    """
    Raise ConfigError where these changes do not suit inputs of this shape. ``pixels``: whether they are 0..255; ``masks``: whether their
    labels are masks.
    """
    if not changes:
        return
    if len(shape) != 3:
        raise ConfigError(f"train.augment changes images, and one input has shape {shape}; remove it")
    for change in changes:
        name = type(change).__name__.lower()
        if change.only_pixels and not (pixels and shape[0] in (1, 3)):
            raise ConfigError(
                f'train.augment: "{name}" changes grey or RGB pixels of 0..255, and the inputs are '
                f"{shape[0]} channels of {'pixels' if pixels else 'other numbers'}; remove it"
            )
        if masks and isinstance(change, Erase):
            raise ConfigError(
                'train.augment: "erase" hides pixels whose class the mask still states, but data.task = "segmentation"; remove it'
            )


@dataclass(frozen=True)
class Augmenter:
    """
    Changes the rows of the batches of one phase. ``at``: the address of the phase; ``key``: the silo's secret. ``types``: what
    torchvision knows an image and a mask by; None where labels are not masks.
    """

    transform: Transform
    at: tuple[str | int, ...]
    key: bytes
    types: tuple[Transform, Transform] | None = None

    def __call__(self, x: Tensor, y: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """
        Return the changed images [B, C, H, W], which are number ``rows`` [B] of the silo, in a step of the phase, and their labels:
        the same, or masks [B, H, W] that moved with the images.
        """
        if not len(x):
            return x, y
        with torch.random.fork_rng(devices=[]):
            changed = [self._changed(*one, step) for one in zip(x, y, rows.tolist(), strict=True)]
        images, labels = zip(*changed, strict=True)
        return torch.stack(images), y if self.types is None else torch.stack(labels)

    def _changed(self, image: Tensor, label: Tensor, row: int, step: int) -> tuple[Tensor, Tensor]:
        torch.default_generator.manual_seed(address("augment", *self.at, step, row, key=self.key))
        if self.types is None:
            return self.transform(image), label
        as_image, as_mask = self.types
        image, label = self.transform(as_image(image), as_mask(label))
        return image.as_subclass(Tensor), label.as_subclass(Tensor)


def augmenter(
    changes: Sequence[Change], train: Dataset, at: tuple[str | int, ...], key: bytes
) -> Augmenter | None:
    """
    Return what applies the changes, one kind after the other, to images such as those of ``train``; None without changes. Raises
    ConfigError where the changes do not suit them.
    """
    if not changes:
        return None
    shape, masks = tuple(train.x.shape[1:]), train.y.dim() == 3
    check_augmentation(changes, shape, train.x.dtype == torch.uint8, masks)
    try:
        v2, tensors = import_transforms(), import_tensor_types()
    except ImportError as error:
        raise ModelError("train.augment needs a package: pip install 'fedtl[vision]'") from error
    fill: Fill = {tensors.Image: 0.0, tensors.Mask: float(NO_LABEL)} if masks else 0.0
    kinds = [change.transform(v2, (shape[1], shape[2]), fill) for change in changes]
    return Augmenter(v2.Compose(kinds), at, key, (tensors.Image, tensors.Mask) if masks else None)
