"""
Random numbers that cannot be reproduced: AES-256 in counter mode, with a key from the operating system for each instance,
which is stored nowhere else.

This module must not depend on models or data. The addresses of ``fedtl._util.randomness`` are not used here, because noise that can
be reproduced can be subtracted.
"""

import math
import os
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from typing import NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from fedtl.errors import ConfigError

CHUNK = (
    1 << 14
)  # numbers that are drawn at a time, so that intermediate values fit into the processor's cache
CHUNK_ON_GPU = 1 << 24  # the same on a GPU: intermediate values take 1 GiB of its memory
GRAIN_BITS = (
    36  # the grain is the noise's standard deviation, rounded down to a power of two, times 2^-GRAIN_BITS
)


class Noise:
    """
    One stream of random numbers. Adding noise and drawing samples use separate instances.

    It cannot be copied or pickled, and a forked process cannot continue its parent's stream, because both would repeat
    numbers. ``private`` is False only for ``Noise.reproducible``.
    """

    private = True

    def __init__(self) -> None:
        self._begin(os.urandom(32))

    @classmethod
    def reproducible(cls, seed: int) -> Self:
        """Return a stream with the same numbers every time, for debugging only: a release with it is not private."""
        noise = cls.__new__(cls)
        noise._begin(blake2b(str(seed).encode(), digest_size=32).digest())
        noise.private = False
        return noise

    def _begin(self, key: bytes) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        except ImportError as error:
            raise ConfigError("privacy needs cryptography: pip install 'fedtl[privacy]'") from error
        # The counter may start at zero, because no key is used twice.
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    def uniform(self, count: int) -> Tensor:
        """Return ``count`` multiples of 2^-53 in [0, 1), float64."""
        return torch.from_numpy((self._bits(count) >> 11) * 2.0**-53)

    def seed(self) -> int:
        """Return a whole number below 2^56, to seed a generator of other random numbers that no other process may know."""
        return int(self._bits(1)[0] >> 8)

    def _bits(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        if os.getpid() != self._process:
            raise RuntimeError(
                "a forked process must create its own Noise, because its parent's would repeat numbers"
            )
        return np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """
        Return independent normal numbers of mean 0, float64 on the CPU, rounded to multiples of ``grain(std)``.

        By Box and Muller (1958): sqrt(-2 ln u) cos(2 pi v) and its sine. Raises ValueError unless ``std`` is above 0.
        """
        return self._grains(math.prod(shape), std).mul_(grain(std)).reshape(tuple(shape))

    def _grains(self, count: int, std: float) -> Tensor:
        """Return the numbers of ``normal`` in grains, which are integers: float64 [count]."""
        pairs = (count + 1) // 2
        # w is in (0, 1/2), and one more bit decides whether u is w or 1 - w, so that tails extend to 9.4 and small radii
        # are as fine as others, although u near 1 has few digits. numpy's logarithm and root are faster than torch's.
        bits = self._bits(pairs)
        w = ((bits >> 1) + 0.5) * 2.0**-64
        radius = np.where(bits & 1, np.log(w), np.log1p(-w))
        np.sqrt(np.multiply(radius, -2 * (std / grain(std)) ** 2, out=radius), out=radius)
        angle, radii = self.uniform(pairs).mul_(2 * math.pi), torch.from_numpy(radius)
        both = torch.cat((angle.cos().mul_(radii), angle.sin_().mul_(radii)))
        return both[:count].round_()

    def _grains_on(self, device: torch.device, count: int, std: float) -> Tensor:
        """
        Return ``_grains`` of chunks on a GPU, from the same bits in the same order: the logarithms and angles of a large net would
        take longer on a CPU than its gradients on a GPU. A result may differ by a grain, because math libraries round differently.
        """
        chunks, rest = divmod(count, CHUNK)
        return torch.cat((self._chunks_on(device, chunks, CHUNK, std), self._chunks_on(device, 1, rest, std)))

    def _chunks_on(self, device: torch.device, chunks: int, count: int, std: float) -> Tensor:
        """Return that many chunks of ``count`` numbers, one after another."""
        pairs = (count + 1) // 2
        drawn = torch.empty(chunks, 2, pairs, dtype=torch.int64)  # torch shifts no unsigned numbers
        for chunk in drawn:
            chunk.view(-1).numpy()[:] = self._bits(2 * pairs).view("<i8")
        for_radius, for_angle = drawn.to(device).unbind(1)
        word, turn = (for_radius >> 1) & (2**63 - 1), (for_angle >> 11) & (2**53 - 1)  # without the sign
        w = word.double().add_(0.5).mul_(2.0**-64)
        squared = torch.where(for_radius & 1 == 1, w.log(), torch.log1p(-w))
        radius = squared.mul_(-2 * (std / grain(std)) ** 2).sqrt_()
        angle = turn.double().mul_(2.0**-53 * 2 * math.pi)
        both = torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), 1)
        return both[:, :count].round_().reshape(-1)

    def add(self, total: Tensor, std: float) -> Tensor:
        """
        Return ``total`` plus independent normal noise, in the total's shape, type and device: one release.

        Floating-point noise on a floating-point sum would reveal the sum by which results are possible (Mironov, 2012).
        Here both are multiples of one grain, whose sum is exact, so the noise does not depend on the total (rounding to
        float32 comes after). For d numbers the grain adds at most grain sqrt(d) to the sensitivity: 6e-8 of ``std`` for
        16 million.
        """
        step, flat = grain(std), total.detach().reshape(-1)
        released = torch.empty_like(flat)
        on_cpu = flat.device.type == "cpu"
        draw = self._grains if on_cpu else partial(self._grains_on, flat.device)
        chunk = CHUNK if on_cpu else CHUNK_ON_GPU
        for value, out in zip(flat.split(chunk), released.split(chunk), strict=True):
            noise = draw(len(value), std)
            out.copy_((value.double() / step).round_().add_(noise).mul_(step))
        return released.view(total.shape)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "noise must not be stored or sent, because a process that has its stream can subtract it"
        )


def grain(std: float) -> float:
    """Return the power of two of which noise with this standard deviation, and what it is added to, are multiples."""
    if not 0 < std < math.inf:
        raise ValueError(f"the standard deviation of noise is {std}; it must be finite and above 0")
    return 2.0 ** (math.frexp(std)[1] - 1 - GRAIN_BITS)
