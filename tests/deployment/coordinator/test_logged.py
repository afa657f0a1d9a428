"""What a ServerApp logs is in a private file of its study and on the terminal, a printed line each, whatever a site sent."""

import io
import json
import logging
import sys

import pytest
import torch
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from fedtl.deployment.coordinator.server_app import logged
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.event_log import LINE_CHARACTERS, PrintedMessages
from fedtl.federation.flower import reply_from_message, reply_to_records
from fedtl.messages import Task, Update

TENSORS = {"w": torch.zeros(2)}


@pytest.fixture
def output(monkeypatch, capfd):
    """A function that returns what was written, without what Flower copies into its database: all that ``sys.stderr`` writes."""
    for name in ("run_id", "node_id", "task_id"):  # a Message asks for them
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)
    copied = io.StringIO()
    for name in ("stderr", "__stderr__"):
        monkeypatch.setattr(sys, name, copied)

    def written():
        assert not copied.getvalue()
        return capfd.readouterr().err

    return written


def hostile():
    """A reply whose tensors have the type "ESC[2J study first: all is well", which safetensors repeats in its error."""
    records = reply_to_records(Update("a", 1, TENSORS, 1.0))
    header = {"w": {"dtype": "\x1b[2J\nstudy first: all is well", "shape": [1], "data_offsets": [0, 4]}}
    written = json.dumps(header).encode()
    records["delta"]["tensors"].data = len(written).to_bytes(8, "little") + written + bytes(4)
    return Message(records, 7, "train")


def test_what_a_site_sent_moves_no_cursor_and_makes_no_line(tmp_path, output):
    with logged(HostedStudy(tmp_path)):
        reply_from_message(hostile(), "a", Task("first", 1, 1, 0, TENSORS))
    (line,) = output().splitlines()
    assert line.startswith(f"study {tmp_path.name}: a: its reply")
    assert "all is well" in line
    assert line.isprintable()
    (kept,) = (tmp_path / "log-study.jsonl").read_text().splitlines()
    assert kept.isprintable()
    assert (tmp_path / "log-study.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_error_with_which_a_serverapp_ends_is_said_once_and_in_short(tmp_path, output):
    handlers = list(logging.getLogger("fedtl").handlers)
    with pytest.raises(RuntimeError), logged(HostedStudy(tmp_path)):
        raise RuntimeError("two\nlines " + "x" * 2 * LINE_CHARACTERS)
    (line,) = output().splitlines()
    assert "its ServerApp ends: RuntimeError: two lines xxx" in line
    assert len(line) == LINE_CHARACTERS
    (kept,) = map(json.loads, (tmp_path / "log-study.jsonl").read_text().splitlines())
    assert kept["level"] == "error"
    assert logging.getLogger("fedtl").handlers == handlers


def test_what_flower_logs_of_a_message_is_one_printed_line(caplog):
    """The SuperLink repeats the id of the task that a site says it replies to."""
    logger = logging.getLogger("flwr.test")
    logger.addFilter(PrintedMessages())
    with caplog.at_level(logging.ERROR, "flwr.test"):
        logger.error("no task %s", "\x1b[2Jx\nERROR : all is well" + "x" * LINE_CHARACTERS)
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) == LINE_CHARACTERS
