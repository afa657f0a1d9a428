"""Tasks and updates as Flower's records, and how the server treats every reply, over a grid without a network."""

import gc
import json
import math
import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import httpx
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.task_identity import TaskIdentity
from safetensors.torch import load

from fedtl._util import clock
from fedtl.errors import Denied, NotEnoughSilos
from fedtl.federation import flower, flower_messages
from fedtl.federation.flower import (
    ARRAY,
    KIND,
    FlowerFederation,
    answer_message,
    array_record,
    read_tensors,
    reply_from_message,
    reply_to_records,
    task_from_records,
    task_to_records,
    verdict_from_message,
)
from fedtl.federation.flower_pulls import LONGEST_WAIT
from fedtl.federation.flower_replies import UnreadableReply
from fedtl.federation.policy import MEANING, Code
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Refusal, SiloVerdict, Task, Update, verdict_question
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role
from fedtl.models.state import size_in_bytes
from fedtl.results.comparison import Verdict

STATE = {
    "body.a": torch.tensor([[1.5, -0.0], [float("inf"), 2**-149]]),
    "body.b": torch.randn(3, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "body.c": torch.empty(0, 4),
    "body.d": torch.tensor(3.0).double(),
}
SHARED = {"body.w": torch.zeros(2, 2)}
TASK = Task("study", 1, 3, 7, SHARED)
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1  # a Message asks for them


def wire(message):
    """The message after Flower's own serialisation to bytes and back."""
    objects = {key: its.deflate() for key, its in get_all_nested_objects(message).items()}
    back = inflate_object_from_contents(message.object_id, objects)
    back.metadata.__dict__["_message_id"] = message.object_id
    return back


def sent(content):
    message = Message(content, 5, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    message.metadata.__dict__["_src_node_id"] = 1
    return message


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


def record(content, kind=KIND, name=ARRAY):
    return ArrayRecord({name: Array("uint8", (len(content),), kind, content)})


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


@dataclass
class Grid:
    """The part of Flower's Grid that is used. Each node answers with a function of its task."""

    acts: dict
    online: set
    pushed: list = field(default_factory=list)

    def get_node_ids(self):
        return list(self.online)

    def push_messages(self, messages):
        self.pushed = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            message.metadata.__dict__["_src_node_id"] = 1
            self.pushed.append(message)
        return [message.object_id for message in self.pushed]

    def pull_messages(self, ids):
        ready = []
        for message in self.pushed:
            act = self.acts[message.metadata.dst_node_id]
            if act and message.object_id in ids:
                ready.append(wire(answer_message(wire(message), lambda decode, act=act: act(decode()))))
            elif (
                message.object_id in ids and time.time() >= message.metadata.created_at + message.metadata.ttl
            ):
                ready.append(Message(Error(code=3), reply_to=message))  # as Flower does
        return ready


def moving(silo, by, **changes):
    def act(task):
        delta = {name: torch.full_like(its, by) for name, its in task.shared.items()}
        return Update(**{"silo": silo, "round": task.round, "delta": delta, "weight": 1.0, **changes})

    return act


NODES = {"a": 11, "b": 12, "c": 13}


def federation(acts, online=None, minimum=1, deadline=0.5):
    grid = Grid({NODES[name]: act for name, act in acts.items()}, {NODES[n] for n in online or acts})
    return FlowerFederation(grid, lambda: NODES, minimum, deadline), grid


def one_round(acts, minimum=1):
    over, _ = federation(acts, minimum=minimum)
    plan = FederationConfig("study", 7, 1, ServerStep(), None, minimum)
    (only,) = run_rounds(over, plan, ServerState(0, SHARED), {"body.w": Role.BODY})
    return only


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
    questions = over.questions(QUESTION)
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


def test_tensors_beyond_the_limit_are_refused_before_they_are_copied():
    record = array_record({"body.w": torch.zeros(10)})
    assert read_tensors(record, 40).keys() == {"body.w"}
    with pytest.raises(ValueError, match="more than 39 bytes"):
        read_tensors(record, 39)


QUESTION = verdict_question("study", 3, 7, SHARED)


def test_a_verdict_is_one_word_and_the_silos_name():
    records = reply_to_records(SiloVerdict("here", Verdict.AS_GOOD))
    assert {name: dict(record) for name, record in records.items()} == {
        "verdict": {"silo": "here", "verdict": "as good"}
    }
    reply = wire(Message(records, reply_to=sent(task_to_records(QUESTION))))
    assert verdict_from_message(reply, "here", QUESTION) == SiloVerdict("here", Verdict.AS_GOOD)


@pytest.mark.parametrize(
    "records",
    [
        {"verdict": ConfigRecord({"silo": "here", "verdict": "gains by 0.031"})},
        {"verdict": ConfigRecord({"silo": "there", "verdict": "gains"})},
        {"verdict": ConfigRecord({"silo": "here", "verdict": "gains", "accuracy": 0.9})},
        {"verdict": ConfigRecord({"silo": "here", "verdict": "gains"}), "more": ConfigRecord({"x": 1})},
        {"verdict": ConfigRecord({"verdict": ["gains"], "silo": "here"})},
        dict(reply_to_records(Update("here", 4, SHARED, 1.0))),
        {},
    ],
)
def test_anything_else_than_a_verdict_is_none(records):
    reply = Message(RecordDict(records), reply_to=sent(task_to_records(QUESTION)))
    answer = verdict_from_message(reply, "here", QUESTION)
    assert isinstance(answer, Refusal)
    assert "0.9" not in answer.reason
    assert "0.031" not in answer.reason


def test_silos_are_asked_one_by_one_whether_joining_helped():
    """One answers, one refuses, one does not reply, one is not connected; the time is the question's, not the round's."""
    acts = {
        "a": lambda task: SiloVerdict("a", Verdict.GAINS),
        "b": lambda task: Refusal("b", 4, Code.DECLINED),
        "c": None,
    }
    over, grid = federation(acts, online={"a", "b", "c"}, deadline=99.0)
    over.nodes = lambda: {**NODES, "d": 14}
    questions = over.questions(QUESTION)
    away = list(questions.send(["c", "d", "e"], 0.3))
    reasons = {"d": "d: is not connected", "e": "e: is no longer admitted"}
    assert {one.silo: one.reason for one in away} == reasons
    assert list(questions.receive()) == []
    kept = list(grid.pushed)
    assert list(questions.send(["a", "b"], 99.0)) == []
    grid.pushed += kept
    assert questions.waiting == {"a", "b", "c"}
    assert {message.metadata.message_type for message in grid.pushed} == {"query"}
    answers = {one.silo: one for one in questions.receive()}
    assert answers["a"] == SiloVerdict("a", Verdict.GAINS)
    assert "(declined)" in answers["b"].reason
    assert questions.waiting == {"c"}
    time.sleep(0.3)
    assert [one.reason for one in questions.receive()] == ["c: no reply within 0.3 s"]
    assert questions.waiting == frozenset()
    assert list(questions.receive()) == []
