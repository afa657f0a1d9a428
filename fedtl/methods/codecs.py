"""How one tensor is written as fewer bytes, and read again. A codec states the shapes and types of what it writes from the tensor's own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedtl.models.state import State

WHOLE, SCALE, SIGNS, VALUES, INDICES = "", "scale", "signs", "values", "indices"  # the names of parts
PARTS = frozenset({SCALE, SIGNS, VALUES, INDICES})
MOST_FLOAT32 = torch.finfo(torch.float32).max
MOST_INDEX = 2**31 - 1
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # by the name of a part: its shape and type


class Codec(Protocol):
    """Writes a tensor of floats as parts, and reads them."""

    def layout(self, tensor: Tensor) -> Layout:
        """Return the shape and type of each part of a tensor of this shape and type; its values are not read."""
        ...

    def encode(self, tensor: Tensor) -> State:
        """Return the parts of a finite tensor on the CPU."""
        ...

    def decode(self, parts: State, like: Tensor) -> Tensor:
        """Return the tensor, with the shape and type of ``like``. ``parts`` have its layout. Raises ValueError."""
        ...


@dataclass(frozen=True)
class Plain:
    """The tensor itself."""

    def layout(self, tensor: Tensor) -> Layout:
        return {WHOLE: (tuple(tensor.shape), tensor.dtype)}

    def encode(self, tensor: Tensor) -> State:
        return {WHOLE: tensor}

    def decode(self, parts: State, like: Tensor) -> Tensor:
        return parts[WHOLE]


@dataclass(frozen=True)
class BFloat16:
    """Each value rounded to 8 significant bits; a value too large for bfloat16 becomes its largest one."""

    def layout(self, tensor: Tensor) -> Layout:
        return {WHOLE: (tuple(tensor.shape), torch.bfloat16)}

    def encode(self, tensor: Tensor) -> State:
        most = torch.finfo(torch.bfloat16).max
        return {WHOLE: tensor.clamp(-most, most).bfloat16()}

    def decode(self, parts: State, like: Tensor) -> Tensor:
        return parts[WHOLE].to(like.dtype)


@dataclass(frozen=True)
class Int8:
    """Whole multiples of a scale for each tensor: round(p / s) with s = max |p| / 127."""

    def layout(self, tensor: Tensor) -> Layout:
        return {WHOLE: (tuple(tensor.shape), torch.int8), SCALE: ((), torch.float32)}

    def encode(self, tensor: Tensor) -> State:
        scale = _scale(tensor.abs().max() / 127, MOST_FLOAT32 / 128)
        multiples = torch.zeros_like(tensor) if not scale else (tensor / scale.to(tensor.dtype)).round()
        return {WHOLE: multiples.clamp(-127, 127).to(torch.int8), SCALE: scale}

    def decode(self, parts: State, like: Tensor) -> Tensor:
        return parts[WHOLE].to(like.dtype) * parts[SCALE].to(like.dtype)


@dataclass(frozen=True)
class Sign:
    """One bit a value: s sign(p) with s = mean |p| for each tensor (Karimireddy et al., 2019); sign(0) = 1."""

    def layout(self, tensor: Tensor) -> Layout:
        return {SIGNS: ((-(-tensor.numel() // 8),), torch.uint8), SCALE: ((), torch.float32)}

    def encode(self, tensor: Tensor) -> State:
        scale = _scale(tensor.abs().mean(dtype=torch.float64), MOST_FLOAT32)
        return {SIGNS: torch.from_numpy(np.packbits((tensor.flatten() >= 0).numpy())), SCALE: scale}

    def decode(self, parts: State, like: Tensor) -> Tensor:
        positive = torch.from_numpy(np.unpackbits(parts[SIGNS].numpy(), count=like.numel())).bool()
        scale = parts[SCALE].to(like.dtype)
        return torch.where(positive, scale, -scale).reshape(like.shape)


@dataclass(frozen=True)
class TopK:
    """
    The k values of largest magnitude and their indices, ascending; all others count as 0 (Stich et al., 2018). k is the
    ``fraction`` of a tensor's values, rounded up. Of values of equal magnitude the first ones are taken.
    """

    fraction: float

    def layout(self, tensor: Tensor) -> Layout:
        k = self._count(tensor)
        return {VALUES: ((k,), tensor.dtype), INDICES: ((k,), torch.int32)}

    def encode(self, tensor: Tensor) -> State:
        flat, k = tensor.flatten(), self._count(tensor)
        magnitudes = flat.abs()
        smallest = magnitudes.topk(k).values[-1]  # of equal magnitudes topk takes any
        above, equal = magnitudes > smallest, (magnitudes == smallest).nonzero().flatten()
        indices = torch.cat([above.nonzero().flatten(), equal[: k - int(above.sum())]]).sort().values
        return {VALUES: flat[indices], INDICES: indices.to(torch.int32)}

    def decode(self, parts: State, like: Tensor) -> Tensor:
        values, indices = parts[VALUES], parts[INDICES].long()
        if not bool((indices.diff() > 0).all()) or indices[0] < 0 or indices[-1] >= like.numel():
            raise ValueError(f"its indices are not ascending numbers from 0 to {like.numel() - 1}")
        flat = torch.zeros(like.numel(), dtype=like.dtype)
        flat[indices] = values
        return flat.reshape(like.shape)

    def _count(self, tensor: Tensor) -> int:
        n = tensor.numel()
        return min(n, max(1, math.ceil(self.fraction * n - 1e-9)))  # 0.07 * 100 is 7.000000000000001


def _scale(value: Tensor, most: float) -> Tensor:
    return value.clamp(max=most).to(torch.float32)


def layout_bytes(layout: Layout) -> int:
    """Return the number of bytes of all parts."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())


def smaller(codec: Codec, tensor: Tensor) -> Codec:
    """Return the codec for a tensor of this shape and type: ``Plain`` where ``codec`` would not save a byte."""
    if tensor.numel() > MOST_INDEX:
        return Plain()
    return codec if layout_bytes(codec.layout(tensor)) < layout_bytes(Plain().layout(tensor)) else Plain()
