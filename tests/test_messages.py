"""Tasks and updates as plain values and tensors: nothing is lost, and nothing of another type or size is accepted."""

import json
import math

import pytest
import torch
from safetensors.torch import load, save

from fedtl.messages import (
    MAX_FIELD_LENGTH,
    MAX_METRICS,
    MAX_NAME_LENGTH,
    MAX_TEXT_LENGTH,
    Task,
    Update,
    pack,
    unpack,
)

TENSORS = {
    "body.w": torch.randn(3, 2),
    "a further name": torch.arange(4),
    "slot/control.body.w": torch.zeros(0, 5),
}
TASK = Task("study", 3, 9, 7, TENSORS)
UPDATE = Update("here", 3, TENSORS, 12.5, {"accuracy": 0.1})


@pytest.mark.parametrize("message", [TASK, UPDATE], ids=["task", "update"])
def test_a_message_survives_a_file_of_safetensors_with_tensors_of_any_name(message):
    header, tensors = pack(message)
    content = save(tensors)
    back = unpack(type(message), json.loads(json.dumps(header)), load(content))
    assert pack(back)[0] == header
    assert pack(back)[1].keys() == TENSORS.keys()
    assert all(torch.equal(pack(back)[1][name], tensor) for name, tensor in TENSORS.items())


def test_the_fields_that_cross():
    """Written by hand, so that a new field needs a change here."""
    assert pack(TASK)[0] == {"study": "study", "round": 3, "rounds": 9, "seed": 7}
    assert pack(UPDATE)[0] == {"silo": "here", "round": 3, "weight": 12.5, "metrics": {"accuracy": 0.1}}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"round": "3"}, "round"),
        ({"round": True}, "round"),
        ({"round": 3.0}, "round"),
        ({"weight": 12}, "weight"),
        ({"weight": "12.5"}, "weight"),
        ({"silo": 5}, "silo"),
        ({"silo": "x" * (MAX_TEXT_LENGTH + 1)}, str(MAX_TEXT_LENGTH)),
        ({"more": 1}, "differs in 'more'$"),
        ({"x" * 99: 1}, f"differs in 'x{{{MAX_FIELD_LENGTH - 1}}}$"),
        ({"new\nline": 1}, r"differs in 'new\\nline'$"),
        ({"metrics": [1.0]}, "metrics"),
        ({"metrics": {"accuracy": math.nan}}, "metrics"),
        ({"metrics": {"accuracy": "0.5"}}, "metrics"),
        ({"metrics": {5: 0.5}}, "metrics"),
        ({"metrics": {"x" * (MAX_TEXT_LENGTH + 1): 0.5}}, str(MAX_TEXT_LENGTH)),
        ({"metrics": {str(number): 0.5 for number in range(MAX_METRICS + 1)}}, str(MAX_METRICS)),
    ],
)
def test_another_type_or_size_is_refused(change, match):
    header, tensors = pack(UPDATE)
    unpack(Update, header, tensors)
    with pytest.raises(ValueError, match=match):
        unpack(Update, {**header, **change}, tensors)


@pytest.mark.parametrize("field", ["silo", "round", "weight", "metrics"])
def test_a_missing_field_is_refused(field):
    header, tensors = pack(UPDATE)
    del header[field]
    with pytest.raises(ValueError, match=f"differs in '{field}'$"):
        unpack(Update, header, tensors)


def test_a_long_name_of_a_tensor_is_refused():
    header, _ = pack(TASK)
    with pytest.raises(ValueError, match=str(MAX_NAME_LENGTH)):
        unpack(Task, header, {"x" * (MAX_NAME_LENGTH + 1): torch.zeros(1)})
