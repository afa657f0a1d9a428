"""
Random numbers that nobody can draw again: AES-256 in counter mode, under a key that the operating system gives
every instance and that is kept nowhere else.

Knows nothing of models or data. The addresses of ``fedtl.randomness`` are not used here: noise that somebody can
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
        if os.getpid() != self._process:
            raise RuntimeError("a forked process needs a Noise of its own: its parent's would repeat itself")
        bits = np.frombuffer(self._stream.update(bytes(8 * count)), "<u8") >> 11
        return torch.from_numpy(bits * 2.0**-53)

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """
        Independent normal numbers of mean 0, float64 on the CPU: add them in float64, and round once.

        Each is half the sum of four (Holohan and Braghin, 2021), so that the floating-point numbers around a
        result do not tell which sum it came from. Raises ValueError unless ``std`` is above 0.
        """
        if not 0 < std < math.inf:
            raise ValueError(f"noise of standard deviation {std} is none; it must be above 0")
        count = math.prod(shape)
        parts = [self._sums_of_four(min(CHUNK, count - done)) for done in range(0, count, CHUNK)]
        return torch.cat([torch.empty(0, dtype=torch.float64), *parts]).mul_(std).reshape(tuple(shape))

    def _sums_of_four(self, count: int) -> Tensor:
        """Box and Muller, 1958: sqrt(-2 ln u) cos(2 pi v) and its sine. No number has both from the same pair."""
        width = max(count, 2)
        radius = self.uniform(2 * width).numpy()  # numpy's logarithm and root are the faster ones
        np.log(np.subtract(1, radius, out=radius), out=radius)
        np.sqrt(np.multiply(radius, -2, out=radius), out=radius)
        angle, radii = self.uniform(2 * width).mul_(2 * math.pi), torch.from_numpy(radius)
        cosines, sines = angle.cos().mul_(radii), angle.sin_().mul_(radii)
        total, turned = cosines[:width].add_(cosines[width:]), sines[:width].add_(sines[width:])
        total[1:] += turned[:-1]
        total[0] += turned[-1]
        return total[:count].div_(2)

    def __reduce__(self) -> NoReturn:
        raise TypeError("noise must not be stored or sent: whoever has its stream can subtract it")
