"""Tasks and updates as Flower's records: every bit arrives, and nothing else does."""

import json
import math
from dataclasses import replace

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from safetensors.torch import load

from fedtl.errors import Denied
from fedtl.federation.flower import (
    answer_message,
    array_record,
    read_tensors,
    reply_from_message,
    reply_to_records,
    task_from_records,
    task_to_records,
)
from fedtl.federation.policy import MEANING, Code
from fedtl.messages import Refusal, Update
from fedtl.models.state import size_in_bytes
from tests.federation.grids import SHARED, TASK, record, sent, wire

STATE = {
    "body.a": torch.tensor([[1.5, -0.0], [float("inf"), 2**-149]]),
    "body.b": torch.randn(3, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "body.c": torch.empty(0, 4),
    "body.d": torch.tensor(3.0).double(),
}


def test_every_bit_arrives():
    back = read_tensors(wire(sent(RecordDict({"x": array_record(STATE)}))).content["x"], size_in_bytes(STATE))
    assert back.keys() == STATE.keys()
    for name, its in STATE.items():
        assert (back[name].dtype, back[name].shape) == (its.dtype, its.shape)
        assert (
            back[name].view(torch.uint8).tolist() == its.view(torch.uint8).tolist()
            if its.dim()
            else back[name] == its
        )


def test_a_task_and_an_update_arrive_as_they_were():
    task = task_from_records(wire(sent(task_to_records(TASK))).content)
    assert (task.study, task.round, task.rounds, task.seed) == ("study", 1, 3, 7)
    update = Update("here", 1, SHARED, 12.5, {"accuracy": 0.75})
    reply = Message(reply_to_records(update), reply_to=sent(task_to_records(TASK)))
    back = reply_from_message(wire(reply), "here", TASK)
    assert torch.equal(back.delta["body.w"], SHARED["body.w"])
    assert replace(back, delta={}) == replace(update, delta={})


def test_an_update_sends_name_round_weight_metrics_and_tensors_only():
    """Written by hand, so that a new field needs a change here: a sample rate, for example, would reveal the number of rows."""
    records = reply_to_records(Update("here", 1, SHARED, 1.0, {"accuracy": 0.75}))
    assert set(records) == {"update", "delta", "metrics"}
    assert dict(records["update"]) == {"silo": "here", "round": 1, "weight": 1.0}
    assert dict(records["metrics"]) == {"accuracy": 0.75}
    (array,) = records["delta"].values()
    assert set(load(array.data)) == set(SHARED)
    assert b"__metadata__" not in array.data


def test_a_message_is_few_objects_whatever_the_number_of_its_tensors():
    """Flower sends each object in a request of its own."""
    shared = {f"body.{number}": torch.zeros(3) for number in range(500)}
    message = Message(reply_to_records(Update("here", 1, shared, 1.0)), reply_to=sent(task_to_records(TASK)))
    assert len(get_all_nested_objects(message)) == 7


def written(shape, content, dtype="F32", end=None):
    """A record with the safetensors file of one tensor, written by hand."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content) if end is None else end]}
    header = json.dumps({"body.w": entry}).encode()
    return record(len(header).to_bytes(8, "little") + header + content)


def test_a_file_written_by_hand_is_read():
    assert read_tensors(written([1], b"\0\0\x80?"), 4) == {"body.w": torch.tensor([1.0])}


@pytest.mark.parametrize(
    "tensors",
    [
        written([1 << 40], b"1234"),  # would take four terabytes
        written([1 << 40], b"1234", end=1 << 42),
        written([2], b"1234"),
        written([-1, -1], b"1234"),
        written([2**31 - 1, 2**31 - 1, 2**31 - 1, 0], b""),
        written([1] * 200, b"1234"),
        written([1], b"12345678", "object"),
        written([1], b"1", "BOOL"),
        record(b""),
        record(b"\xff" * 8 + b"{}"),
        record((1 << 30).to_bytes(8, "little") + b"{}"),
        record(b"\x02" + b"\0" * 7 + b"{}", "numpy.ndarray"),
        record(b"\x02" + b"\0" * 7 + b"{}", name="other"),
        ArrayRecord({}),
    ],
)
def test_bytes_that_are_not_the_tensors_of_a_message_are_denied(tensors):
    content = RecordDict({"task": task_to_records(TASK)["task"], "shared": tensors})
    with pytest.raises(Denied) as caught:
        task_from_records(content)
    assert caught.value.code == Code.TENSORS


@pytest.mark.parametrize(
    "change", [{"round": "1"}, {"study": 3}, {"seed": True}, {"rounds": [1]}, {"round": None}, {"sigma": 0.1}]
)
def test_a_message_that_is_not_a_task_is_denied(change):
    numbers = {"study": "s", "round": 1, "rounds": 2, "seed": 0, **change}
    told = {key: value for key, value in numbers.items() if value is not None}
    with pytest.raises(Denied):
        task_from_records(RecordDict({"task": ConfigRecord(told), "shared": array_record(SHARED)}))


def test_the_text_of_an_exception_does_not_leave_the_client():
    def act(decode):
        raise RuntimeError("patient 4711")

    reply = answer_message(sent(task_to_records(TASK)), act)
    assert not reply.has_error()
    assert "4711" not in repr(reply.content)
    told = reply_from_message(reply, "here", TASK)
    assert told == Refusal("here", 1, f"here: {MEANING[Code.FAILED]} (failed)")


def reply_with(**records):
    update = dict(reply_to_records(Update("here", 1, SHARED, 1.0)))
    return Message(RecordDict({**update, **records}), reply_to=sent(task_to_records(TASK)))


@pytest.mark.parametrize(
    ("match", "records"),
    [
        (
            "another silo's name",
            {"update": ConfigRecord({"silo": "there", "round": 1, "weight": 1.0})},
        ),
        ("1,600 bytes", {"delta": array_record({"body.w": torch.zeros(20, 20)})}),
        ("not an update", {"update": ConfigRecord({"silo": "here"})}),
        ("not an update", {"more": ConfigRecord({"x": 1})}),
        (
            "not an update",
            {"delta": ArrayRecord({"body.w": Array("float32", (2,), "numpy.ndarray", b"12345678")})},
        ),
        ("not an update", {"metrics": MetricRecord({"accuracy": math.nan})}),
        ("not an update", {"metrics": MetricRecord({str(number): 1.0 for number in range(1000)})}),
        (
            "not an update",
            {"update": ConfigRecord({"silo": "here", "round": 1, "weight": 1.0, "spend": [4.0, 0.25, 5.0]})},
        ),
    ],
)
def test_an_invalid_reply_becomes_a_refusal_that_repeats_nothing_of_it(match, records):
    reply = reply_from_message(reply_with(**records), "here", TASK)
    assert isinstance(reply, Refusal)
    assert match in reply.reason


def test_the_text_of_flowers_error_is_not_repeated():
    error = Message(Error(2, "<class 'KeyError'>:<'patient 4711'>"), reply_to=sent(task_to_records(TASK)))
    assert reply_from_message(error, "here", TASK).reason == "here: its app failed (code 2)"


def test_tensors_beyond_the_limit_are_refused_before_they_are_copied():
    record = array_record({"body.w": torch.zeros(10)})
    assert read_tensors(record, 40).keys() == {"body.w"}
    with pytest.raises(ValueError, match="more than 39 bytes"):
        read_tensors(record, 39)
