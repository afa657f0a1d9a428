"""
A column of text as the numbers of its tokens (``data.tokenizer``), for a model that reads them in their order. The tokenizer is a file
that all silos have (Hugging Face's ``tokenizer.json``), so nothing is learned from rows, and no row changes those of another.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedtl.data.source import Array
from fedtl.errors import DataError, first_line


def token_codes(texts: Sequence[str | None], path: str, width: int) -> Array:
    """
    Return [N, width] for N texts: the number of each token plus 1, in their order, and 0 after the last one. A longer text is cut, with
    the tokenizer's own marks of its start and end kept. A missing text is an empty one. ``path``: of tokenizer.json. Raises DataError.
    """
    tokenizer = _tokenizer(path, width)
    codes = np.zeros((len(texts), width))
    for row, encoded in zip(codes, tokenizer.encode_batch([text or "" for text in texts]), strict=True):
        row[: len(encoded.ids)] = np.array(encoded.ids) + 1.0
    return codes


def _tokenizer(path: str, width: int) -> Any:
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise DataError(f"data.tokenizer: {path} cannot be read: {error.strerror}") from error
    return _read(path, width, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _read(path: str, width: int, changed: int, size: int) -> Any:
    """Return the tokenizer, which is read again only after its file changed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would not survive a fork
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError("data.tokenizer needs a package: pip install 'fedtl[text]'") from error
    try:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.no_padding()
        tokenizer.enable_truncation(width)
    except Exception as error:  # tokenizers raises Exception itself
        reason = first_line(error)
        raise DataError(
            f"data.tokenizer: {path} is not a tokenizer.json ({reason}); put the model's own there"
        ) from error
    return tokenizer
