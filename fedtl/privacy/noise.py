"""
Random numbers that nobody can draw again: AES-256 in counter mode, under a key that the operating system gives
every instance and that is kept nowhere else.

Knows nothing of models or data. The addresses of ``fedtl._util.randomness`` are not used here: noise that somebody can
repeat is noise that somebody can subtract.
"""

import math
import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from fedtl.errors import ConfigError

CHUNK = 1 << 14  # numbers at a time: what they are made of fits into a processor's cache
GRAIN_BITS = 36  # a grain is so many powers of two below the noise's standard deviation


class Noise:
    """
    One stream of random numbers. Whoever adds noise and whoever draws samples has an instance each.

    It cannot be copied or pickled, and a forked process cannot go on with its parent's: both would repeat numbers.
    ``private`` is False for ``Noise.reproducible`` alone.
    """

    private = True

    def __init__(self) -> None:
        self._begin(os.urandom(32))

    @classmethod
    def reproducible(cls, seed: int) -> Self:
        """The same numbers every time, for debugging: a release with them protects nobody."""
        noise = cls.__new__(cls)
        noise._begin(blake2b(str(seed).encode(), digest_size=32).digest())
        noise.private = False
        return noise

    def _begin(self, key: bytes) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        except ImportError as error:
            raise ConfigError("privacy needs cryptography: pip install 'fedtl[privacy]'") from error
        # The counter may start at zero: no key is used twice.
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    def uniform(self, count: int) -> Tensor:
        """``count`` multiples of 2^-53 in [0, 1), float64."""
        return torch.from_numpy((self._bits(count) >> 11) * 2.0**-53)

    def _bits(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        if os.getpid() != self._process:
            raise RuntimeError("a forked process needs a Noise of its own: its parent's would repeat itself")
        return np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """
        Independent normal numbers of mean 0, float64 on the CPU, rounded to multiples of ``grain(std)``.

        Box and Muller, 1958: sqrt(-2 ln u) cos(2 pi v) and its sine. Raises ValueError unless ``std`` is above 0.
        """
        return self._grains(math.prod(shape), std).mul_(grain(std)).reshape(tuple(shape))

    def _grains(self, count: int, std: float) -> Tensor:
        """The numbers of ``normal`` as whole numbers of grains: float64 [count]."""
        pairs = (count + 1) // 2
        # w is in (0, 1/2), and one more bit says whether u is w or 1 - w: so no tail is cut off before 9.4, and near 0,
        # where u has no more digits, radii are as fine as anywhere. numpy's logarithm and root are the faster ones.
        bits = self._bits(pairs)
        w = ((bits >> 1) + 0.5) * 2.0**-64
        radius = np.where(bits & 1, np.log(w), np.log1p(-w))
        np.sqrt(np.multiply(radius, -2 * (std / grain(std)) ** 2, out=radius), out=radius)
        angle, radii = self.uniform(pairs).mul_(2 * math.pi), torch.from_numpy(radius)
        both = torch.cat((angle.cos().mul_(radii), angle.sin_().mul_(radii)))
        return both[:count].round_()

    def add(self, total: Tensor, std: float) -> Tensor:
        """
        A release: ``total`` plus independent normal noise, in the total's shape, type and place.

        Floating-point noise on a floating-point sum would tell the sum by the numbers that can or cannot come out
        (Mironov, 2012). Here both are whole multiples of one grain, whose sum is exact: the noise means the same
        whatever the total is (rounding the result to float32 comes after). Between neighbours of d numbers the
        grain adds at most grain sqrt(d) to the sensitivity: 6e-8 of ``std`` for 16 million.
        """
        step, flat = grain(std), total.detach().reshape(-1)
        released = torch.empty_like(flat)
        chunk = CHUNK if flat.device.type == "cpu" else max(len(flat), 1)
        for value, out in zip(flat.split(chunk), released.split(chunk), strict=True):
            noise = self._grains(len(value), std).to(value.device)
            out.copy_((value.double() / step).round_().add_(noise).mul_(step))
        return released.view(total.shape)

    def __reduce__(self) -> NoReturn:
        raise TypeError("noise must not be stored or sent: whoever has its stream can subtract it")


def grain(std: float) -> float:
    """What noise of this standard deviation, and what it is added to, are whole multiples of: a power of two."""
    if not 0 < std < math.inf:
        raise ValueError(f"noise of standard deviation {std} is none; it must be above 0")
    return 2.0 ** (math.frexp(std)[1] - 1 - GRAIN_BITS)
