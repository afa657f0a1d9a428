"""
Reads the objects of a silo's reply as Flower's message, and trusts none of them. Flower raises whatever error an object leads to, which ended
the ServerApp, and puts an array together from a list that may name one part any number of times, so that a reply of a few MB could need all
memory. Here such a reply is an error of its own.
"""

import json
from collections.abc import Mapping
from typing import Any

from flwr.app import Array, Message
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

MAX_HEADER_BYTES = 16 << 20  # of a safetensors file, which names its tensors
MAX_REASON = 200  # characters of Flower's own text, which may repeat what the silo sent
_limits = {"bytes": 0}  # of this process, which asks for the replies to one task at a time


class UnreadableReply(Exception):
    """A reply that is none of Flower's messages, or has more bytes than the answer to its task."""


def check_replies() -> None:
    """Have every pull of this process read its reply with ``read_reply``."""
    from flwr.superlink.grid import http_grid  # here, since a site does not need it

    grid: Any = http_grid
    grid.inflate_object_from_contents = read_reply


def limit_replies(tensors: int) -> None:
    """Let replies that are read from now on have as many bytes of tensors, and what names them."""
    _limits["bytes"] = tensors + MAX_HEADER_BYTES


def read_reply(object_id: str, contents: dict[str, bytes]) -> Message:
    """Return the message of ``contents``, the objects of a reply by their ids. Raises UnreadableReply, and no other error."""
    try:
        size = _array_bytes(contents)
        if size <= _limits["bytes"]:
            message: Any = inflate_object_from_contents(object_id, contents)
            if isinstance(message, Message):
                return message
    except Exception as error:
        raise UnreadableReply(ascii(error)[:MAX_REASON]) from error
    if size > _limits["bytes"]:
        raise UnreadableReply(f"arrays of {size:,} bytes, more than {_limits['bytes']:,}")
    raise UnreadableReply("it is no message")


def _array_bytes(contents: Mapping[str, bytes]) -> int:
    """Return how many bytes all arrays of a reply have once their parts are put together."""
    size = 0
    for content in contents.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__qualname__:
            parts = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            size += sum(len(contents[children[part]]) for part in parts)
    return size
