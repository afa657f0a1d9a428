"""
Randomness has an address, not an order.

Whoever needs random numbers says what for (seed, round, silo, phase) and gets the same ones wherever and
whenever it asks: order, process and thread change nothing. A silo mixes in a secret of its own, so that
somebody who knows the experiment's seed cannot draw its batches again. This is for sampling and
initialisation only; the noise of differential privacy never comes from here.
"""

import json
from hashlib import blake2b

import numpy as np
import torch


def address(*parts: str | int, key: bytes = b"") -> int:
    """A 56-bit number that belongs to ``parts`` and ``key`` alone; distinct parts never share a spelling."""
    return int.from_bytes(blake2b(json.dumps(parts).encode(), digest_size=7, key=key).digest(), "big")


def torch_generator(*parts: str | int, key: bytes = b"") -> torch.Generator:
    return torch.Generator().manual_seed(address(*parts, key=key))


def numpy_generator(*parts: str | int, key: bytes = b"") -> np.random.Generator:
    return np.random.default_rng(address(*parts, key=key))


def seed_layers(seed: int, device: torch.device) -> None:
    """What layers such as dropout draw from. torch.manual_seed would, on a CPU, keep a stack trace for each call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
