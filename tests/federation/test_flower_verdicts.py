"""The question whether joining helped, over Flower: one word a silo leaves."""

import time

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedtl.federation.flower import reply_to_records, task_to_records, verdict_from_message
from fedtl.federation.policy import Code
from fedtl.messages import Refusal, SiloVerdict, Update, verdict_question
from fedtl.results.comparison import Verdict
from tests.federation.grids import NODES, SHARED, federation, sent, wire

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
