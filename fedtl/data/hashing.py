"""
Categories without a list of their values: hashes, which depend on a cell alone, so they are sound under privacy and the same at
every silo.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from fedtl.data.source import Array

CODE_BYTES = 6  # 48 bits, which float64 holds exactly; 100,000 values share one with a probability of 2e-5


def category_codes(texts: Sequence[str | None]) -> Array:
    """Return a number for each text [N], the same for the same text, and NaN for None."""
    codes = {text: float(_hash(text)) for text in set(texts) if text is not None}
    return np.array([math.nan if text is None else codes[text] for text in texts], np.float64)


def hashed_inputs(texts: Sequence[str | None], width: int) -> Array:
    """
    Return [N, width]: of each text one input that its hash names is 1 or -1, and all others are 0; all are 0 for None. The sign,
    of another bit of the hash, lets values that share an input cancel out on average: Weinberger et al. (2009), "Feature Hashing
    for Large Scale Multitask Learning".
    """
    inputs = np.zeros((len(texts), width))
    for row, text in enumerate(texts):
        if text is not None:
            number, sign = divmod(_hash(text), 2)
            inputs[row, number % width] = 1.0 if sign else -1.0
    return inputs


def _hash(text: str) -> int:
    return int.from_bytes(
        blake2b(text.encode(errors="surrogatepass"), digest_size=CODE_BYTES).digest(), "big"
    )
