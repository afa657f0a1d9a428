"""
The coordinator's SuperLink: Flower's own, except that a reply of a site has at most the bytes that its plan allows, that a
site can send replies to its own messages and nothing else, that no site decides what messages of others consist of, and that a call waits
longer for the database.

Flower 1.42.0 stores whatever an admitted site sends, and a reply of a gigabyte ended the coordinator. This module replaces the
functions through which a site sends. It starts nothing where their file is not exactly the one that it was written for.
"""

import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import HTTPException
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse
from flwr.supercore import sql_mixin
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.utils import int64_to_uint64
from flwr.superlink.cli import flower_superlink
from flwr.superlink.servicer.fleet import fleet_handlers

from fedtl.deployment.coordinator.object_parts import is_whole, keep_each_tree
from fedtl.deployment.coordinator.removed_tasks import remove_what_is_over
from fedtl.deployment.coordinator.run_sizes import RunSizes
from fedtl.deployment.event_log import PrintedMessages
from fedtl.deployment.flower_version import check_flower, run_main

KNOWN_HASH = "117665fa865c30dccc5a21b7c5b099e101ae481870513f0a9242fd292ff1b18c"  # of fleet_handlers.py
MAX_SESSIONS = 1000  # of one site at a time
SESSION_SECONDS = 600.0  # without an object; Flower ends such a session after 180
MAX_OBJECTS = 1000  # of one reply; an honest one has about ten, and one for each 20 MB
LOCK_MILLISECONDS = (
    60_000  # Flower waits 5 s for a locked database, and with 20 sites on a busy machine lost a reply
)
TOO_LARGE, TOO_MANY, FORBIDDEN = 413, 429, 400


class ReceivedBytes:
    """
    Counts the bytes of each reply. ``limit`` returns the most that a reply in a run may have.

    A site chooses the run and the name of the session that it states. Flower stores an object only where the session is one of that run,
    so each pair has a count and a limit of its own. A site's count lasts as long as Flower's session can, and names beyond
    ``MAX_SESSIONS`` are refused: otherwise a site could have its own count forgotten by stating many.
    """

    def __init__(self, limit: Callable[[int], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock, self._lock = limit, clock, Lock()
        self._sites: defaultdict[int, dict[tuple[int, str], _Count]] = defaultdict(dict)

    def add(self, site: int, run: int, session: str, size: int) -> None:
        """
        Raise HTTPException where a reply becomes larger than its plan allows, or where a site has too many at a time. ``site``:
        Flower's node id, which the SuperLink has compared with the signature. ``size``: bytes of the object that comes now.
        """
        reply = run, session
        with self._lock:
            now, counts = self._clock(), self._sites[site]
            for name in [name for name, one in counts.items() if now - one.last > SESSION_SECONDS]:
                del counts[name]
            if reply not in counts and len(counts) >= MAX_SESSIONS:
                raise HTTPException(TOO_MANY, f"a site may send {MAX_SESSIONS} replies at a time")
            before = counts.get(reply) or _Count(0, self._limit(run), now)
            counts[reply] = own = _Count(before.received + size, before.limit, now)
        if own.received > own.limit:
            raise HTTPException(
                TOO_LARGE,
                f"the reply has more than the {own.limit} bytes that its plan allows",
            )


@dataclass(frozen=True)
class _Count:
    """Bytes ``received`` of one reply, the most that it may have, and when the ``last`` part came."""

    received: int
    limit: int
    last: float


def check_sender(request: Any) -> None:
    """
    Raise HTTPException unless the request has one message, which is a reply, from the node that signed the request: Flower would
    also store a task for another site, if it claims to be from the SuperLink. A time that is no number would be stored as NULL, and each
    question of the ServerApp for that reply would fail. The ServerApp would pull an object as often as the tree names it; an honest one names
    each once.
    """
    messages = request.messages_list
    if len(messages) != 1 or len(request.message_object_trees) != 1:
        raise HTTPException(FORBIDDEN, "a request must have one message")
    metadata = messages[0].metadata
    if not metadata.reply_to_message_id or metadata.src_node_id != request.node.node_id:
        raise HTTPException(FORBIDDEN, "a site may only send replies, in its own name")
    if not (math.isfinite(metadata.created_at) and math.isfinite(metadata.ttl)):
        raise HTTPException(FORBIDDEN, "the times of a reply must be finite numbers")
    names = [node.object_id for node in iterate_object_tree(request.message_object_trees[0])]
    # The database is locked while they are noted, and the ServerApp would ask for each.
    if len(names) > MAX_OBJECTS:
        raise HTTPException(FORBIDDEN, f"a reply may have {MAX_OBJECTS} objects")
    if names[-1] != metadata.message_id or len(names) != len(set(names)):
        raise HTTPException(FORBIDDEN, "the objects of a reply must be its own, each named once")


def check_is_new(request: Any, state: Any) -> None:
    """
    Raise HTTPException where a reply has the id of a task. Flower would end the session in which the coordinator sends its tasks, and the
    ServerApp with it.
    """
    if state.get_valid_message_ins(request.messages_list[0].metadata.message_id) is not None:
        raise HTTPException(FORBIDDEN, "a reply must have an id of its own")


def is_task_of(site: int, name: str, state: Any) -> bool:
    """Whether a message is a task for this site whose time is not over: Flower would remove any object that nothing else has as a part."""
    task = state.get_valid_message_ins(name)
    return task is not None and int64_to_uint64(task["dst_node_id"]) == site


def bound_replies(folder: Path) -> None:
    """Make the SuperLink in this process refuse replies that are larger than their plans in ``folder`` allow. Raises ConfigError for another flwr."""
    check_flower(fleet_handlers, KNOWN_HASH)
    received = ReceivedBytes(RunSizes(folder).most)
    push_messages, push_object = fleet_handlers.push_messages, fleet_handlers.push_object
    confirm = fleet_handlers.confirm_message_received

    def checked_messages(request: Any, state: Any) -> Any:
        check_sender(request)
        check_is_new(request, state)
        return push_messages(request=request, state=state)

    def bounded_object(request: Any, state: Any) -> Any:
        if not request.session_id:  # Flower would take any session that waits for the object, and its owner could not send it any more
            raise HTTPException(FORBIDDEN, "an object must name the session of its reply")
        received.add(request.node.node_id, request.run_id, request.session_id, len(request.object_content))
        return push_object(request=request, state=state)

    def checked_confirmation(request: Any, state: Any, store: Any) -> Any:
        if not is_task_of(request.node.node_id, request.message_object_id, state):
            return ConfirmMessageReceivedResponse()  # a site that is late gets no error
        # Flower would remove what the coordinator is about to send.
        if not is_whole(store, request.message_object_id):
            raise HTTPException(FORBIDDEN, "the message is not there yet")
        return confirm(request=request, state=state, store=store)

    fleet_handlers.push_messages = checked_messages
    fleet_handlers.push_object = bounded_object
    fleet_handlers.confirm_message_received = checked_confirmation


def wait_for_the_database() -> None:
    """Make every connection of this process to Flower's database wait for a lock as long as a call of a site may take."""
    settings: Any = sql_mixin
    changed = {**dict(settings.SQLITE_PRAGMAS), "busy_timeout": str(LOCK_MILLISECONDS)}
    settings.SQLITE_PRAGMAS = tuple(changed.items())


def main() -> None:
    folder, *words = sys.argv[1:]
    logging.getLogger("flwr").addFilter(PrintedMessages())  # Flower logs what a site names, such as a message
    bound_replies(Path(folder))
    keep_each_tree()
    remove_what_is_over()
    wait_for_the_database()
    sys.argv = ["flower-superlink", *words]
    flower_superlink()


if __name__ == "__main__":
    run_main(main)
