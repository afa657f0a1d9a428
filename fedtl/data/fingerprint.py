"""
A fingerprint of a silo's rows, by which a later reader sees whether a result was made from the same rows.

It is a hash without a key: whoever has candidate rows can test whether they are the ones. So it is made in simulations without
``[privacy]`` alone, where the reader of the result may see the rows, and never at a site of a deployment.
"""

import json
from hashlib import sha256
from typing import Any

import numpy as np

from fedtl.data.source import Array, Raw, parts_of
from fedtl.data.streamed import StreamedImages, blocks

LENGTH = 16  # hexadecimal digits that are kept: two different sets are alike with a probability of 2 ** -64


def rows_fingerprint(raw: Raw, labels: bool = True) -> str:
    """
    Return the first 64 bits of the SHA-256 of the rows as the source gave them: inputs, labels, units and column names of each part,
    in their order. Of images that are streamed: of the names and sizes of the files, because they are not read here. ``labels``:
    False for a silo whose labels are not used.
    """
    digest = sha256(json.dumps(raw.columns).encode())
    for name, part in parts_of(raw).items():
        digest.update(name.encode())
        for values in (part.x, part.y if labels else None, part.units):
            _add(digest, values)
    _add(digest, raw.target)
    return digest.hexdigest()[:LENGTH]


def _add(digest: Any, values: Array | StreamedImages | None) -> None:
    if values is None:
        digest.update(b"none")
    elif isinstance(values, StreamedImages):
        files = [(values.paths[row].name, int(values.stamps[row][0])) for row in values.rows]
        digest.update(json.dumps(files).encode())
    elif values.dtype.kind in "OUS":
        digest.update(json.dumps([str(one) for one in values.ravel()]).encode())
    else:
        digest.update(f"{values.dtype.str} {values.shape}".encode())
        for block in blocks(values):
            digest.update(np.ascontiguousarray(block).data)
