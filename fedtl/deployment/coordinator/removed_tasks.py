"""
Which tasks and replies the SuperLink's database keeps while a run goes on: those whose time is not over. Flower 1.42.0 keeps a task that a site
never fetched, and a reply that came too late or in part, until the run ends, each with a whole model.
"""

from typing import Any

from flwr.server.superlink.linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import select

from fedtl.deployment.coordinator.object_parts import is_whole


def remove_what_is_over() -> None:
    """Have the states of this process remove a task's objects with the task, and all that is over of a run where it sends or gets a message."""
    state: Any = SqlLinkState
    delete_messages, start_session = state.delete_messages, state.start_session

    def delete(self: Any, message_ins_ids: set[str]) -> None:
        delete_messages(self, message_ins_ids)
        for task in message_ins_ids:
            if is_whole(self.object_store, task):  # otherwise the ServerApp would fail at sending the rest
                self.object_store.delete(task)

    def start(self: Any, run_id: int) -> str:
        with self.session() as session:
            tasks, replies = _over(session, run_id)
            sessions = _expired(session, run_id)
        self.delete_messages(tasks)
        for reply in replies:
            self.object_store.delete(reply)
        for each in sessions:
            self._cleanup_push_session(each, cleanup_messages=True)
        name: str = start_session(self, run_id)
        return name

    state.delete_messages, state.start_session = delete, start


def _over(session: Any, run_id: int) -> tuple[set[str], set[str]]:
    """Return the ids of the tasks of a run whose time is over, and those of the replies to them."""
    of_run = MessageIns.run_id == uint64_to_int64(run_id)
    late = select(MessageIns.message_id).where(
        of_run, MessageIns.created_at + MessageIns.ttl < now().timestamp()
    )
    replies = select(MessageRes.message_id).where(MessageRes.reply_to_message_id.in_(late))
    return set(session.scalars(late)), set(session.scalars(replies))


def _expired(session: Any, run_id: int) -> list[str]:
    """Return the push sessions of a run whose time is over: Flower ends one where somebody asks for what it was to send, or with the run."""
    of_run = ObjectPushSession.run_id == uint64_to_int64(run_id)
    return list(
        session.scalars(
            select(ObjectPushSession.session_id).where(of_run, ObjectPushSession.expires_at <= now())
        )
    )
