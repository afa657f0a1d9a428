"""Replies as objects that Flower cannot read, or that need more memory than their task allows."""

import json

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from flwr.superlink.grid import http_grid

from fedtl.federation.flower import FlowerFederation, array_record
from fedtl.federation.flower_replies import MAX_HEADER_BYTES, UnreadableReply, limit_replies, read_reply
from tests.federation.grids import SHARED


@pytest.fixture
def reply():
    """The id and the objects of an honest reply."""
    message = Message(RecordDict({"delta": array_record(SHARED)}), dst_node_id=7, message_type="train")
    limit_replies(1000)
    return message.object_id, {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def written(kind, children, body):
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def test_an_honest_reply_is_flowers_message(reply):
    message = read_reply(*reply)
    assert isinstance(message, Message)
    assert set(message.content) == {"delta"}


def test_a_part_that_is_named_many_times_is_counted_each_time(reply):
    part = written("ArrayChunk", [], b"\0" * 1000)
    name, times = get_object_id(part), MAX_HEADER_BYTES // 1000 + 2
    for indices in ([0] * times, [-1] * times):
        form = json.dumps({"arraychunk_ids": indices}).encode()
        with pytest.raises(UnreadableReply, match="bytes, more than"):
            read_reply("none", {name: part, "array": written("Array", [name], form)})


@pytest.mark.parametrize(
    "root",
    [
        written("Message", [], b"\xff\xff"),
        written("Message", [], b""),
        written("Message", ["0" * 64], b""),
        written("Array", [], b"[" * 100_000),
        written("Array", [], b'{"arraychunk_ids": [1e9]}'),
        b"\xff\xff\xff\xff",
        ConfigRecord({"round": 1}).deflate(),
    ],
)
def test_what_is_no_message_is_an_error_of_its_own(reply, root):
    name, objects = reply
    with pytest.raises(UnreadableReply):
        read_reply(name, {**objects, name: root})
    with pytest.raises(UnreadableReply):
        read_reply("f" * 64, dict(objects))


def test_a_federation_reads_replies_so(monkeypatch):
    monkeypatch.setattr(http_grid, "inflate_object_from_contents", None)
    FlowerFederation(None, dict, 1, 1.0)
    assert http_grid.inflate_object_from_contents is read_reply
