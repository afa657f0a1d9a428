"""Which replies count in a round over Flower, and who is asked; over a grid without a network."""

import math
from types import SimpleNamespace

import httpx
import pytest
import torch
from flwr.app import Message
from flwr.app.error import Error

from fedtl._util import clock
from fedtl.errors import NotEnoughSilos
from fedtl.federation import flower
from fedtl.federation.flower_replies import UnreadableReply
from fedtl.federation.policy import Code
from fedtl.messages import Refusal, Update, verdict_question
from tests.federation.grids import NODES, SHARED, TASK, federation, moving, one_round
from tests.federation.test_flower_pulls import announcing


def test_a_round_over_the_grid_is_the_mean():
    only = one_round({"a": moving("a", 1.0), "b": moving("b", 4.0, weight=2.0)})
    assert torch.equal(only.after.shared["body.w"], torch.full((2, 2), 3.0))


@pytest.mark.parametrize(
    ("match", "act"),
    [
        ("b: its update is for round 9", moving("b", 1.0, round=9)),
        ("b: body.w is not finite", moving("b", math.nan)),
        ("b: body.w is (4,)", moving("b", 1.0, delta={"body.w": torch.zeros(4)})),
        ("b: its update lacks 'body.w'", moving("b", 1.0, delta={"body.x": torch.zeros(2, 2)})),
        ("b: its weight is -1", moving("b", 1.0, weight=-1.0)),
        ("b: no reply within 0.5 s", None),
        ("b: refused this round", lambda task: Refusal("b", 1, Code.DECLINED)),
    ],
)
def test_a_reply_that_does_not_count_is_left_out_with_its_reason(match, act):
    only = one_round({"a": moving("a", 1.0), "b": act})
    assert only.left_out["b"].startswith(match)
    assert torch.equal(only.after.shared["body.w"], torch.ones(2, 2))


def test_too_few_valid_replies_end_the_round():
    with pytest.raises(NotEnoughSilos, match="minimum_silos = 2"):
        one_round({"a": moving("a", 1.0), "b": None}, minimum=2)


def test_only_connected_silos_are_asked():
    over, grid = federation({"a": moving("a", 1.0), "b": moving("b", 1.0)}, online={"a"})
    assert over.silos() == ["a"]
    grid.online.add(NODES["b"])
    assert over.silos() == ["a", "b"]


def test_silos_of_the_last_round_have_a_grace_period(monkeypatch):
    """The clock moves a second with each question who is connected."""
    clock = iter(range(1000))
    monkeypatch.setattr(flower.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(flower.time, "sleep", lambda seconds: None)
    over, grid = federation({"a": moving("a", 1.0), "b": moving("b", 1.0)}, online={"a"}, deadline=50)
    over.former, over.grace = frozenset({"a", "b", "expelled"}), 5.0
    assert over.silos() == ["a"]  # after the grace period
    assert next(clock) == 6
    assert over.away() == {"b": "b: is not connected", "c": "c: is not connected"}
    assert over.silos() == ["a"]  # b is not of the last round any more
    assert next(clock) == 9
    over.former = frozenset({"b"})
    monkeypatch.setattr(flower.time, "sleep", lambda seconds: grid.online.add(NODES["b"]))
    assert over.silos() == ["a", "b"]
    assert next(clock) == 13
    assert over.away() == {"c": "c: is not connected"}


def test_a_node_that_was_not_admitted_is_not_asked():
    over, grid = federation({"a": moving("a", 1.0)})
    grid.online.add(99)
    assert over.silos() == ["a"]


@pytest.mark.slow
def test_too_few_silos_for_the_deadline_end_the_wait():
    over, _ = federation({"a": moving("a", 1.0)}, minimum=2, deadline=0.1)
    with pytest.raises(NotEnoughSilos, match="not connected: b, c"):
        over.silos()


def test_a_message_lives_no_longer_than_the_round():
    over, grid = federation({"a": moving("a", 1.0)}, deadline=42.0)
    list(over.ask(TASK, ["a"]))
    assert grid.pushed[0].metadata.ttl == 42.0


def test_a_silo_that_is_no_longer_admitted_is_left_out():
    over, _ = federation({"a": moving("a", 1.0)})
    replies = {reply.silo: reply for reply in over.ask(TASK, ["a", "gone"])}
    assert isinstance(replies["a"], Update)
    assert "no longer admitted" in replies["gone"].reason


def test_a_reply_is_that_of_the_silo_that_was_asked_for_it():
    """Whatever the reply says about whose message it answers: here a's is sent as if it were b's, before b has replied."""
    over = announcing("", deadline=30.0)
    grid = over.grid
    grid.acts[NODES["a"]] = moving("b", 9.0)

    def pulled(ids):
        replies = grid.pull_messages(ids)
        for reply in replies:
            reply.metadata.__dict__["_reply_to_message_id"] = grid.pushed[1].object_id
        return replies

    over.grid = SimpleNamespace(push_messages=grid.push_messages, pull_messages=pulled)
    a, b, c = sorted(over.ask(TASK, list("abc")), key=lambda reply: reply.silo)
    assert a.reason.startswith("a: its reply has another silo's name")
    assert torch.equal(b.delta["body.w"], torch.ones(2, 2))
    assert isinstance(c, Update)


def test_a_reply_that_cannot_be_read_leaves_out_its_silo_alone():
    over = announcing("", deadline=30.0)
    grid = over.grid

    def pulled(ids):
        if ids[0] == grid.pushed[0].object_id:
            raise UnreadableReply("\x1b[2J")
        return grid.pull_messages(ids)

    over.grid = SimpleNamespace(push_messages=grid.push_messages, pull_messages=pulled)
    replies = {reply.silo: reply for reply in over.ask(TASK, list("ab"))}
    assert replies["a"] == Refusal("a", 1, "a: its reply cannot be read")
    assert isinstance(replies["b"], Update)


@pytest.mark.parametrize(
    ("jump", "said"), [(3600.0, "a: its task was lost"), (1.0, "a: its reply arrived incomplete")]
)
def test_a_task_that_expires_because_the_clock_was_set_says_so(monkeypatch, jump, said):
    over = announcing("", deadline=30.0)
    grid, now = over.grid, {"wall": 1.8e9}
    monkeypatch.setattr(clock.ClockJumps.__init__, "__defaults__", (lambda: now["wall"], lambda: 0.0))

    def pulled(ids):
        now["wall"] += jump
        return [Message(Error(code=3), reply_to=grid.pushed[0])]

    over.grid = SimpleNamespace(push_messages=grid.push_messages, pull_messages=pulled)
    (only,) = over.ask(TASK, ["a"])
    assert only.reason.startswith(said)
    assert ("clock was set forward by 3600 s" in only.reason) == (jump > 5)


def test_a_clock_that_was_set_before_a_message_was_sent_is_no_reason(monkeypatch):
    """A question may be asked again for weeks."""
    over, now = announcing("", deadline=30.0), {"wall": 1.8e9}
    monkeypatch.setattr(clock.ClockJumps.__init__, "__defaults__", (lambda: now["wall"], lambda: 0.0))
    questions = over.questions(verdict_question("study", 3, 7, SHARED))
    now["wall"] += 3600.0
    assert list(questions.send(["a"], 30.0)) == []
    error = Message(Error(code=5), reply_to=over.grid.pushed[0])
    over.grid.pull_messages = lambda ids: [error]
    (only,) = questions.receive()
    assert only.reason == "a: disconnected during the round (code 5)"


def test_a_superlink_that_fails_at_a_reply_is_asked_again(caplog):
    over = announcing("", deadline=30.0)
    grid, codes = over.grid, [500, 503]

    def pulled(ids):
        if codes:
            failed = httpx.Response(codes.pop(), request=httpx.Request("POST", "https://here"))
            failed.raise_for_status()
        return grid.pull_messages(ids)

    over.grid = SimpleNamespace(push_messages=grid.push_messages, pull_messages=pulled)
    (only,) = over.ask(TASK, ["a"])
    assert isinstance(only, Update)
    assert "failed at a reply (HTTP 503)" in caplog.text
    codes.append(403)  # which is no failure, and would be said each time
    with pytest.raises(httpx.HTTPStatusError):
        list(over.ask(TASK, ["a"]))


def test_an_error_of_a_pull_ends_the_round():
    over = announcing("", deadline=30.0)
    over.grid.pull_messages = lambda ids: [][0]
    with pytest.raises(IndexError):
        list(over.ask(TASK, ["a"]))
