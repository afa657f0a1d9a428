"""Replies whose parts come late or never hold up no round and no other reply."""

import gc
import threading
import time
import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Message
from flwr.app.error import Error
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError, pull_objects

from fedtl.federation import flower, flower_messages
from fedtl.federation.flower_pulls import LONGEST_WAIT
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Update
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role
from tests.federation.grids import NODES, SHARED, TASK, Grid, federation, moving


def test_a_part_of_a_message_that_is_late_is_asked_for_again_soon():
    federation({})
    begun, asked = time.monotonic(), []

    def pull(name):
        asked.append(name)
        if len(asked) < 3:
            raise ObjectUnavailableError(name)
        return b"x"

    assert pull_objects(["a"], pull) == {"a": b"x"}
    assert time.monotonic() - begun < 0.8  # Flower alone waits 1 s, then 2


NO_MORE_PARTS = threading.Event()


@pytest.fixture(autouse=True)
def no_pull_outlives_its_test():
    """Flower draws its pauses from Python's own generator, which Hypothesis watches in the tests that come after."""
    before = set(threading.enumerate())
    NO_MORE_PARTS.clear()
    yield
    NO_MORE_PARTS.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(LONGEST_WAIT * 3)
        assert not thread.is_alive(), thread


@dataclass
class AnnouncingGrid(Grid):
    """
    The part of Flower's HttpGrid that waits. The reply of a silo in ``cut_off`` is announced and its parts never come; ``later`` is
    when, in seconds after the message, the others reply.
    """

    cut_off: frozenset = frozenset()
    later: float = 0.0
    push_session: float = 9.0  # seconds until the SuperLink forgets what was announced; Flower's has 180
    given_up: list = field(default_factory=list)

    def pull_messages(self, ids):
        ready = []
        for message in self.pushed:
            if message.object_id in ids and message.metadata.dst_node_id in self.cut_off:
                try:
                    pull_objects(["part"], self.missing(time.monotonic() + self.push_session))
                except ObjectPullError:
                    self.given_up.append(message.metadata.dst_node_id)
                    ready.append(Message(Error(code=3), reply_to=message))
            elif time.time() >= message.metadata.created_at + self.later:
                ready += super().pull_messages({message.object_id} & set(ids))
        return ready

    @staticmethod
    def missing(end):
        def pull(name):
            if time.monotonic() >= end or NO_MORE_PARTS.is_set():
                raise ObjectPullError(name, "the object could not be found.")
            raise ObjectUnavailableError(name)

        return pull


def announcing(cut_off, deadline, **changes):
    acts = {name: moving(name, 1.0) for name in NODES}
    over, grid = federation(acts, deadline=deadline)
    over.grid = AnnouncingGrid(
        grid.acts, grid.online, cut_off=frozenset(NODES[name] for name in cut_off), **changes
    )
    return over


def test_a_reply_whose_parts_never_come_holds_no_round_beyond_its_deadline():
    """Two such replies, before that of the only silo that sends all of its own, shortly before the end."""
    over, begun = announcing("ab", deadline=2.5, later=0.8), time.monotonic()
    plan = FederationConfig("study", 7, 1, ServerStep(), None, 1)
    (only,) = run_rounds(over, plan, ServerState(0, SHARED), {"body.w": Role.BODY})
    assert time.monotonic() - begun < 6.0
    assert torch.equal(only.after.shared["body.w"], torch.ones(2, 2))
    reason = "no whole reply within 2.5 s; it is asked again next round"
    assert only.left_out == {name: f"{name}: {reason}" for name in "ab"}
    time.sleep(1.0)
    assert sorted(over.grid.given_up) == [NODES["a"], NODES["b"]]  # nothing of the round goes on in a thread


def test_a_silo_that_is_expelled_while_its_reply_comes_holds_no_round_up():
    """One that is only asked no more, which ``nodes`` lacks, still counts."""
    over, members = announcing("a", deadline=30.0, later=0.3), set(NODES.values())
    asked = dict(NODES)
    over.nodes, over.members = (lambda: asked), lambda: members
    replies = iter(over.ask(TASK, list("abc")))
    found = {"first": next(replies)}
    asked.clear()
    members.discard(NODES["a"])
    found |= {reply.silo: reply for reply in replies}
    found[found["first"].silo] = found["first"]
    assert "expelled" in found["a"].reason
    assert isinstance(found["b"], Update)
    assert isinstance(found["c"], Update)


def test_a_reply_that_flower_gives_up_before_the_deadline_says_so():
    over = announcing("a", deadline=30.0, push_session=0.2)
    replies = {reply.silo: reply for reply in over.ask(TASK, ["a", "b"])}
    assert isinstance(replies["b"], Update)
    assert replies["a"].reason == "a: its reply arrived incomplete (code 3)"


def test_a_message_is_not_kept_once_it_is_read():
    over, messages = announcing("", deadline=30.0), list[weakref.ref]()

    def pulled(ids):
        replies = grid.pull_messages(ids)
        messages.extend(map(weakref.ref, replies))
        return replies

    grid = over.grid
    over.grid = SimpleNamespace(push_messages=grid.push_messages, pull_messages=pulled)
    for number, _ in enumerate(over.ask(TASK, list("abc")), start=1):
        gc.collect()
        assert sum(message() is None for message in messages) == len(messages) == number  # none waits


def test_few_replies_are_pulled_at_a_time_and_one_that_stalls_holds_up_no_other(monkeypatch):
    monkeypatch.setattr(flower_messages, "MOST_PULLS", 1)
    monkeypatch.setattr(flower_messages, "STALLED_SECONDS", 0.4)
    monkeypatch.setattr(flower_messages, "PATIENCE", 0.02)
    over, begun = announcing("ab", deadline=30.0), dict[str, float]()

    def pulled(ids):
        begun.setdefault(ids[0], time.monotonic())
        return grid.pull_messages(ids)

    grid = over.grid
    over.grid = SimpleNamespace(push_messages=grid.push_messages, pull_messages=pulled)
    assert next(iter(over.ask(TASK, list("abc")))).silo == "c"
    a, b, c = begun.values()
    assert b - a >= 0.4
    assert c - b >= 0.4


def test_a_slow_superlink_is_asked_for_every_reply_in_turn(monkeypatch):
    """Each of its answers takes longer than one waits for it, and the first silos have not replied yet."""
    monkeypatch.setattr(flower_messages, "MOST_PULLS", 1)
    monkeypatch.setattr(flower_messages, "PATIENCE", 0.01)
    monkeypatch.setattr(flower, "SHORTEST_POLL", 0.01)
    over, asked = announcing("", deadline=30.0), list[str]()

    def pulled(ids):
        asked.append(ids[0])
        time.sleep(0.03)
        return grid.pull_messages(ids) if len(asked) > 9 else []

    grid = over.grid
    over.grid = SimpleNamespace(push_messages=grid.push_messages, pull_messages=pulled)
    assert len(list(over.ask(TASK, list("abc")))) == 3
    assert [asked.count(sent) for sent in set(asked)] == [4, 4, 4]
