"""
Random numbers that depend on what they are for, not on the order in which they are drawn.

A caller names what the numbers are for (seed, round, silo, phase) and gets the same ones in any process, thread and
order. A silo adds its own secret as a key, so that a party that has the experiment's seed cannot draw its batches
again. These generators are for sampling and initialisation only; differential privacy never takes its noise from here.
"""

import json
from hashlib import blake2b

import numpy as np
import torch


def address(*parts: str | int, key: bytes = b"") -> int:
    """A 56-bit hash of ``parts`` and ``key``. Different parts are never serialised to the same text."""
    return int.from_bytes(blake2b(json.dumps(parts).encode(), digest_size=7, key=key).digest(), "big")


def torch_generator(*parts: str | int, key: bytes = b"") -> torch.Generator:
    """A torch generator seeded with ``address``."""
    return torch.Generator().manual_seed(address(*parts, key=key))


def numpy_generator(*parts: str | int, key: bytes = b"") -> np.random.Generator:
    """A numpy generator seeded with ``address``."""
    return np.random.default_rng(address(*parts, key=key))


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed the global generators, from which layers such as dropout draw. On a CPU, torch.manual_seed would keep a stack
    trace of each call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
