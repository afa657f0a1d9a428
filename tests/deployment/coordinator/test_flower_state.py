"""What the coordinator's SuperLink does with the objects of tasks, with Flower's own state and store on a file, as a site that is admitted could call it."""

from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace

import pytest
from fastapi import HTTPException
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, message_pb2, node_pb2
from flwr.server.superlink.linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, OBJECT_PUSH_SESSION_TTL_SECONDS, TaskType
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers
from sqlalchemy import func, select

from fedtl.deployment.coordinator import removed_tasks
from fedtl.deployment.coordinator.bounded_superlink import bound_replies
from fedtl.deployment.coordinator.object_parts import TREE, keep_each_tree
from fedtl.deployment.coordinator.removed_tasks import remove_what_is_over

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")
MODEL = RecordDict({"task": ConfigRecord({"round": 1, "shared": b"x" * 1000})})  # the same for each site


@pytest.fixture
def link(tmp_path, monkeypatch):
    """A running run with two sites, and a session in which the ServerApp sends each of them a task."""
    for owner, names in (
        (SqlObjectStore, ("preregister", "get_object_tree", "delete")),
        (SqlLinkState, ("delete_messages", "start_session")),
        (fleet_handlers, ("push_messages", "push_object", "confirm_message_received")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    for name in ("run_id", "node_id", "task_id"):  # a Message asks for them
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)
    keep_each_tree()
    remove_what_is_over()
    bound_replies(tmp_path)
    store = SqlObjectStore(str(tmp_path / "state.db"))
    store.initialize()
    state = SqlLinkState(str(tmp_path / "state.db"), NoOpFederationManager(), store)
    state.initialize()
    nodes = [state.create_node("owner", "owner", key, 0) for key in (b"a", b"b")]
    for node in nodes:
        assert state.activate_node(node, 30.0)
    run = state.create_run("", "", "", {}, NOOP_FEDERATION_ID, None, "owner", TaskType.SERVER_APP)
    task = state.get_run_info(run_ids=[run])[0].primary_task_id
    state.claim_task(task)
    state.activate_task(task)
    return SimpleNamespace(state=state, store=store, nodes=nodes, run=run, session=state.start_session(run))


def announce(link, node, ttl=60.0):
    message = Message(MODEL, node, "train", ttl=ttl)
    message.metadata.__dict__.update(_run_id=link.run, _src_node_id=1)
    message.metadata.__dict__["_message_id"] = message.object_id
    stored, missing = link.state.store_message_and_object_tree(
        message, get_object_tree(message), link.session
    )
    assert stored
    return message, missing


def push(link, message, names):
    """Whether each object could be sent; otherwise Flower's grid raises ObjectPushError."""
    objects = get_all_nested_objects(message)
    return [
        link.state.store_object(link.run, link.session, name, objects[name].deflate())
        for name in names
        if name in objects
    ]


def attack_id(link, task):
    """Announce the task itself as the reply to it."""
    reply = Message(MODEL, reply_to=task)
    metadata = reply.metadata.__dict__
    metadata.update(_message_id=task.object_id, _run_id=link.run, _src_node_id=task.metadata.dst_node_id)
    proto = message_to_proto(reply)
    proto.content.Clear()
    return fleet_handlers.push_messages(
        fleet_pb2.PushMessagesRequest(
            node=node_pb2.Node(node_id=task.metadata.dst_node_id),
            messages_list=[proto],
            message_object_trees=[get_object_tree(task)],
        ),
        link.state,
    )


def attack_session(link, task):
    """Send an object whose content is known, before the ServerApp does."""
    known = MODEL["task"]
    return fleet_handlers.push_object(
        message_pb2.PushObjectRequest(
            node=node_pb2.Node(node_id=task.metadata.dst_node_id),
            run_id=link.run,
            object_id=known.object_id,
            object_content=known.deflate(),
        ),
        link.state,
    )


def attack_confirmation(link, task, name=None):
    """Say that the task was received, before it was sent."""
    return fleet_handlers.confirm_message_received(
        request=message_pb2.ConfirmMessageReceivedRequest(
            node=node_pb2.Node(node_id=task.metadata.dst_node_id),
            run_id=link.run,
            message_object_id=name or task.object_id,
        ),
        state=link.state,
        store=link.store,
    )


def attack_tree(link, task):
    """Say that the object with the task's tree was received, which is a message's only in its name."""
    return attack_confirmation(link, task, TREE + task.object_id)


@pytest.mark.parametrize("attack", [attack_id, attack_session, attack_confirmation, attack_tree])
def test_a_site_cannot_stop_the_serverapp_from_sending_its_tasks(link, attack):
    """A site gets the ids of its task as soon as it is announced, while the ServerApp still sends the contents for all sites."""
    task, missing = announce(link, link.nodes[0])
    other, more = announce(link, link.nodes[1])
    with suppress(HTTPException):
        attack(link, task)
    assert all(push(link, other, more))
    assert push(link, task, [name for name in missing if name not in more]) == [True]
    attack_confirmation(link, task)
    assert task.object_id not in link.store


def test_the_model_goes_with_the_last_task_that_a_site_did_not_fetch(link):
    """Also where a site is cut off, round by round; and not while the ServerApp still sends it."""
    task, missing = announce(link, link.nodes[0])
    other, more = announce(link, link.nodes[1])
    link.state.delete_messages({task.object_id})
    assert all(push(link, task, missing))
    assert all(push(link, other, [name for name in more if name not in missing]))
    assert link.store.get(MODEL.object_id)
    attack_confirmation(link, other)
    link.state.delete_messages({task.object_id, other.object_id})
    assert len(link.store) == 0


@pytest.mark.parametrize("complete", [True, False])
def test_what_is_over_goes_when_the_next_round_begins(link, monkeypatch, complete):
    """One site did not fetch its task, the other one's reply came too late. The task of the next round stays."""
    late, missing = announce(link, link.nodes[0], ttl=30.0)
    unfetched, more = announce(link, link.nodes[1], ttl=30.0)
    assert all(push(link, late, missing))
    assert all(push(link, unfetched, [name for name in more if name not in missing]))
    reply = Message(RecordDict({"delta": ConfigRecord({"x": 1})}), reply_to=late)
    reply.metadata.__dict__.update(_run_id=link.run, _src_node_id=link.nodes[0])
    reply.metadata.__dict__["_message_id"] = reply.object_id
    session = link.state.start_session(link.run)
    stored, parts = link.state.store_message_and_object_tree(reply, get_object_tree(reply), session)
    assert stored
    for name in parts[: len(parts) if complete else 1]:
        assert link.state.store_object(link.run, session, name, get_all_nested_objects(reply)[name].deflate())
    monkeypatch.setattr(removed_tasks, "now", lambda: now() + timedelta(seconds=31.0))
    link.session = link.state.start_session(link.run)
    assert len(link.store) == 0
    assert link.state.num_message_ins() == link.state.num_message_res() == 0
    task, missing = announce(link, link.nodes[0])
    link.state.start_session(link.run)
    assert all(push(link, task, missing))
    assert link.store.get_object_tree(task.object_id) == get_object_tree(task)


def sessions(link):
    with link.state.session() as session:
        return session.scalar(select(func.count()).select_from(ObjectPushSession))


@pytest.mark.parametrize("size", [0, 1000])
def test_what_a_site_sends_in_part_goes_when_its_session_is_over(link, monkeypatch, size):
    """A reply without its last object would stay with all others, a model in each round. A refused reply leaves its session alone (0)."""
    task, missing = announce(link, link.nodes[0], ttl=1000.0)
    assert all(push(link, task, missing))
    before = len(link.store), sessions(link)
    reply = Message(RecordDict({"delta": ConfigRecord({"x": b"x" * size})}), reply_to=task)
    reply.metadata.__dict__.update(_run_id=link.run, _src_node_id=link.nodes[0 if size else 1])
    reply.metadata.__dict__["_message_id"] = reply.object_id
    proto = message_to_proto(reply)
    proto.content.Clear()
    request = fleet_pb2.PushMessagesRequest(
        node=node_pb2.Node(node_id=reply.metadata.src_node_id),
        messages_list=[proto],
        message_object_trees=[get_object_tree(reply)],
    )
    answer = fleet_handlers.push_messages(request, link.state)
    link.session = answer.session_id
    assert all(push(link, reply, answer.objects_to_push[:-1]))
    assert (len(link.store), sessions(link)) > before
    later = timedelta(seconds=OBJECT_PUSH_SESSION_TTL_SECONDS + 1)
    monkeypatch.setattr(removed_tasks, "now", lambda: now() + later)
    link.state.start_session(link.run)
    assert (len(link.store), sessions(link)) == (before[0], 1)  # the one that starts


def test_a_site_confirms_its_own_tasks_alone(link):
    """Flower would remove the task of another site, whose id this one might know."""
    task, missing = announce(link, link.nodes[0])
    other, more = announce(link, link.nodes[1])
    assert all(push(link, task, missing))
    assert all(push(link, other, [name for name in more if name not in missing]))
    attack_confirmation(link, other, task.object_id)
    assert link.store.get_object_tree(task.object_id)
    attack_confirmation(link, task)
    assert task.object_id not in link.store
