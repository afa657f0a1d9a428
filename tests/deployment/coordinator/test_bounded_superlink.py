"""What a SuperLink refuses that Flower's own would store."""

import math
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from fastapi import HTTPException
from flwr.proto import fleet_pb2, message_pb2, node_pb2
from flwr.supercore import sql_mixin
from flwr.superlink.servicer.fleet import fleet_handlers
from safetensors.torch import save_file

from fedtl.deployment import flower_version
from fedtl.deployment.coordinator import bounded_superlink
from fedtl.deployment.coordinator.bounded_superlink import MAX_OBJECTS, ReceivedBytes, bound_replies
from fedtl.deployment.coordinator.reply_size import reply_size
from fedtl.errors import ConfigError


@pytest.fixture
def handlers(tmp_path, monkeypatch):
    """Flower's handlers, bounded by a bundle with 40 bytes of tensors; what they stored."""
    stored = []
    for name in ("push_messages", "push_object", "confirm_message_received"):
        monkeypatch.setattr(fleet_handlers, name, lambda name=name, **arguments: stored.append(name))
    (tmp_path / "bundles" / "b").mkdir(parents=True)
    save_file({"a": torch.zeros(10)}, tmp_path / "bundles" / "b" / "start.safetensors")
    bound_replies(tmp_path)
    return SimpleNamespace(stored=stored, limit=reply_size(tmp_path).total)


def pushed(session, size, run=0):
    request = message_pb2.PushObjectRequest(session_id=session, run_id=run, object_content=b"x" * size)
    return fleet_handlers.push_object(request=request, state=None)


def test_a_reply_has_at_most_the_bytes_of_the_plan(handlers):
    half = handlers.limit // 2
    pushed("one", half)
    pushed("two", handlers.limit)  # another reply
    pushed("one", half)
    with pytest.raises(HTTPException) as error:
        pushed("one", 2)
    assert error.value.status_code == 413
    assert handlers.stored == ["push_object"] * 3


def test_a_damaged_bundle_does_not_keep_replies_of_another_study_away(handlers, tmp_path):
    (tmp_path / "bundles" / "bad").mkdir()
    (tmp_path / "bundles" / "bad" / "start.safetensors").write_bytes(b"x")
    pushed("one", handlers.limit)
    assert handlers.stored == ["push_object"]


def test_a_site_cannot_have_the_count_of_its_reply_forgotten(monkeypatch):
    monkeypatch.setattr(bounded_superlink, "MAX_SESSIONS", 2)
    now = [0.0]
    received = ReceivedBytes(lambda run: 10, clock=lambda: now[0])
    received.add(7, 1, "a", 9)
    received.add(7, 1, "b", 1)
    for session, status in (("c", 429), ("a", 413)):
        with pytest.raises(HTTPException) as error:
            received.add(7, 1, session, 2)
        assert error.value.status_code == status
    received.add(8, 1, "c", 10)  # another site
    now[0] = bounded_superlink.SESSION_SECONDS + 1  # Flower has ended the sessions
    received.add(7, 1, "c", 10)


LARGEST = 1 << 20  # bytes of the tensors of another bundle


@pytest.fixture
def studies(handlers, tmp_path):
    """Runs 5 and 2**64 - 1 of a study of 40 bytes, run 8 of one with a damaged file; a large bundle; returns the limit of the study."""
    (tmp_path / "bundles" / "large").mkdir()
    save_file({"a": torch.zeros(LARGEST // 4)}, tmp_path / "bundles" / "large" / "start.safetensors")
    for name, lines in (
        ("small", ['{"run": "5"}', '{"ru', f'{{"run": "{2**64 - 1}"}}']),
        ("bad", ['{"run": "8"}']),
    ):
        (tmp_path / "studies" / name).mkdir(parents=True)
        (tmp_path / "studies" / name / "runs.jsonl").write_text("\n".join(lines))
    (tmp_path / "studies" / "bad" / "start.safetensors").write_bytes(b"x")
    save_file({"a": torch.zeros(10)}, tmp_path / "studies" / "small" / "start.safetensors")
    return handlers.limit


@pytest.mark.parametrize("run", [5, 2**64 - 1])
def test_a_reply_is_bounded_by_the_study_of_its_run(studies, run):
    pushed("one", studies, run)
    with pytest.raises(HTTPException, match=f"the {studies} bytes"):
        pushed("two", studies + 1, run)


@pytest.mark.parametrize("run", [6, 8])
def test_a_run_of_no_study_is_bounded_by_the_largest_bundle(studies, tmp_path, run):
    """The run began just now, and its study does not note it yet; or the tensors of the study are damaged."""
    largest = reply_size(tmp_path).total
    assert largest > LARGEST > studies
    pushed("one", largest, run)
    with pytest.raises(HTTPException, match=str(largest)):
        pushed("one", 1, run)


def test_a_run_that_is_noted_late_has_the_limit_of_its_study_from_then_on(studies, tmp_path):
    pushed("one", studies + 1, 7)
    with (tmp_path / "studies" / "small" / "runs.jsonl").open("a") as file:
        file.write('\n{"run": "7"}\n')
    with pytest.raises(HTTPException):
        pushed("two", studies + 1, 7)


def test_a_site_gains_nothing_by_naming_the_run_of_a_larger_study_first(studies):
    """Flower does not store what comes under another run than that of the session."""
    pushed("one", 1, 6)
    with pytest.raises(HTTPException):
        pushed("one", studies + 1, 5)


def tree(name, *children):
    return message_pb2.ObjectTree(object_id=name, children=children)


def request(node=7, source=7, reply_to="task", messages=1, its=None, **times):
    metadata = message_pb2.Metadata(
        message_id="reply", src_node_id=source, reply_to_message_id=reply_to, **times
    )
    return fleet_pb2.PushMessagesRequest(
        node=node_pb2.Node(node_id=node),
        messages_list=[message_pb2.Message(metadata=metadata)] * messages,
        message_object_trees=[its or tree("reply", tree("part"))] * messages,
    )


class Tasks(dict):
    """Flower's state, which has these tasks."""

    get_valid_message_ins = dict.get


@pytest.mark.parametrize(
    "forged",
    [
        {"source": 8},
        {"source": 1, "reply_to": ""},  # a task in the name of the SuperLink
        {"reply_to": ""},
        {"messages": 2},
        {"messages": 0},
        {"created_at": math.nan},  # which Flower stores as NULL, and then cannot read
        {"ttl": math.nan},
        {"created_at": math.inf},
        {"its": tree("task", tree("part"))},
        {"its": tree("reply", tree("a", tree("part")), tree("b", tree("part")))},  # pulled twice
        {"its": tree("reply", *(tree(str(number)) for number in range(MAX_OBJECTS)))},
    ],
)
def test_a_site_sends_replies_in_its_own_name_only(handlers, forged):
    fleet_handlers.push_messages(request=request(), state=Tasks())
    with pytest.raises(HTTPException):
        fleet_handlers.push_messages(request=request(**forged), state=Tasks())
    assert handlers.stored == ["push_messages"]


def test_a_reply_has_not_the_id_of_a_task(handlers):
    """Otherwise Flower ends the session in which the ServerApp sends the tasks of the round."""
    with pytest.raises(HTTPException, match="of its own"):
        fleet_handlers.push_messages(request=request(), state=Tasks(reply={"message_id": "reply"}))
    assert not handlers.stored


def test_an_object_names_its_session(handlers):
    """Otherwise Flower takes the session of anybody who is about to send that object, and refuses it when its owner does."""
    with pytest.raises(HTTPException, match="session"):
        pushed("", 1)
    assert not handlers.stored


def test_a_call_waits_longer_for_the_database(monkeypatch, tmp_path):
    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", sql_mixin.SQLITE_PRAGMAS)
    bounded_superlink.wait_for_the_database()
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        sql_mixin._set_sqlite_pragmas(connection, None)
        found = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("busy_timeout", "journal_mode")
        }
    assert found == {"busy_timeout": 60_000, "journal_mode": "wal"}


def test_another_flower_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(flower_version, "version", lambda name: "1.99.0")
    with pytest.raises(ConfigError, match="flwr 1.99.0"):
        bound_replies(tmp_path)
