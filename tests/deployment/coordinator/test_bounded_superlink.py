"""What a SuperLink refuses that Flower's own would store."""

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
from fedtl.deployment.coordinator.bounded_superlink import ReceivedBytes, bound_replies
from fedtl.deployment.coordinator.reply_size import reply_size
from fedtl.errors import ConfigError


@pytest.fixture
def handlers(tmp_path, monkeypatch):
    """Flower's handlers, bounded by a bundle with 40 bytes of tensors; what they stored."""
    stored = []
    for name in ("push_messages", "push_object"):
        monkeypatch.setattr(fleet_handlers, name, lambda request, state, name=name: stored.append(name))
    (tmp_path / "bundles" / "b").mkdir(parents=True)
    save_file({"a": torch.zeros(10)}, tmp_path / "bundles" / "b" / "start.safetensors")
    bound_replies(tmp_path)
    return SimpleNamespace(stored=stored, limit=reply_size(tmp_path).total)


def pushed(session, size):
    request = message_pb2.PushObjectRequest(session_id=session, object_content=b"x" * size)
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
    received = ReceivedBytes(lambda: 10, clock=lambda: now[0])
    received.add(7, "a", 9)
    received.add(7, "b", 1)
    for session, status in (("c", 429), ("a", 413)):
        with pytest.raises(HTTPException) as error:
            received.add(7, session, 2)
        assert error.value.status_code == status
    received.add(8, "c", 10)  # another site
    now[0] = bounded_superlink.SESSION_SECONDS + 1  # Flower has ended the sessions
    received.add(7, "c", 10)


def request(node=7, source=7, reply_to="task", messages=1):
    metadata = message_pb2.Metadata(src_node_id=source, reply_to_message_id=reply_to)
    return fleet_pb2.PushMessagesRequest(
        node=node_pb2.Node(node_id=node),
        messages_list=[message_pb2.Message(metadata=metadata)] * messages,
        message_object_trees=[message_pb2.ObjectTree()] * messages,
    )


@pytest.mark.parametrize(
    "forged",
    [
        {"source": 8},
        {"source": 1, "reply_to": ""},  # a task in the name of the SuperLink
        {"reply_to": ""},
        {"messages": 2},
        {"messages": 0},
    ],
)
def test_a_site_sends_replies_in_its_own_name_only(handlers, forged):
    fleet_handlers.push_messages(request=request(), state=None)
    with pytest.raises(HTTPException):
        fleet_handlers.push_messages(request=request(**forged), state=None)
    assert handlers.stored == ["push_messages"]


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
