"""What a recording federation writes: the chosen rounds, and each update as it was sent."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file

from fedtl.federation.recorder import RecordingFederation, read_transcript, rounds_to_record
from fedtl.messages import Refusal, Task, Update

SHARED = {"body.w": torch.arange(4.0)}


@dataclass
class Silos:
    def silos(self):
        return ["a", "b", "c"]

    def ask(self, task, silos):
        yield Update("b", task.round, {"body.w": SHARED["body.w"] * task.round}, 0.1, {"accuracy": 1 / 3})
        yield Update("a", task.round, {"body.w": SHARED["body.w"] + 1}, 30.0)
        yield Refusal("c", task.round, "c: no")


@pytest.mark.parametrize(
    ("rounds", "count", "recorded"),
    [(40, 8, {1, 7, 12, 18, 23, 29, 34, 40}), (3, 8, {1, 2, 3}), (5, 1, {1}), (5, 0, set())],
)
def test_rounds_are_spread_evenly_from_first_to_last(rounds, count, recorded):
    assert rounds_to_record(rounds, count) == recorded


def test_only_the_chosen_rounds_are_written_and_every_reply_passes(tmp_path):
    federation = RecordingFederation(Silos(), tmp_path / "transcript", frozenset({1, 3}))
    for number in (1, 2, 3):
        task = Task("study", number, 3, 0, SHARED)
        replies = list(federation.ask(task, federation.silos()))
        assert [reply.silo for reply in replies] == ["b", "a", "c"]
    transcript = read_transcript(tmp_path / "transcript")
    assert [one.round for one in transcript] == [1, 3]
    last = transcript[1]
    assert torch.equal(last.shared["body.w"], SHARED["body.w"])
    assert last.weights == {"a": 30.0, "b": 0.1}
    assert torch.equal(last.deltas["b"]["body.w"], SHARED["body.w"] * 3)


def test_a_run_without_a_transcript_has_an_empty_one(tmp_path):
    assert read_transcript(tmp_path / "none") == []


def test_a_transcript_of_fedtl_0_1_0_which_has_weights_only_can_be_read(tmp_path):
    folder = tmp_path / "round-000002"
    (folder / "silos").mkdir(parents=True)
    save_file(SHARED, folder / "shared.safetensors")
    save_file(SHARED, folder / "silos" / "a.safetensors", {"weight": repr(0.1)})
    (only,) = read_transcript(tmp_path)
    assert (only.round, only.weights) == (2, {"a": 0.1})
