"""The promises of what crosses a silo's wall, and of what a stopped run or site reads again."""

from dataclasses import replace

import pytest
from flwr.app import Message

from fedtl.deployment.site.state_store import SiloStateStore, StoredRound
from fedtl.errors import Denied
from fedtl.experiment.checkpoint import load_run_state, save_run_state
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.result import Totals
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.experiment.tensor_table import parts_of, tensor_table
from fedtl.federation.flower import reply_from_message, reply_to_records, task_from_records, task_to_records
from fedtl.federation.policy import Policy, Terms, check_task, check_update, make_manifest
from fedtl.federation.recorder import RecordingFederation, read_transcript
from fedtl.federation.rounds import run_rounds
from fedtl.methods.sets import set_of
from fedtl.models.roles import Role
from fedtl.models.state import copy_state, size_in_bytes
from fedtl.results.plan import StatePart
from fedtl.simulation.shared_store import temporary_store
from tests.federation.grids import sent, wire
from tests.methods.promises.trained import PLAN, Run, Watched, silos_of, trainer_of
from tests.methods.promises.whole import settings_of
from tests.training.silos import same


def flower(run: Run, folder) -> None:
    """A task and its reply are the same after Flower's own bytes."""
    seen = run.rounds[1]
    update = seen.updates[run.name]
    question = sent(task_to_records(seen.task))
    assert same(task_from_records(wire(question).content).shared, seen.task.shared)
    back = reply_from_message(wire(Message(reply_to_records(update), reply_to=question)), run.name, seen.task)
    assert same(back.delta, update.delta)
    assert (back.weight, back.metrics) == (update.weight, update.metrics)


def manifest(run: Run, folder) -> None:
    """It lists what leaves and nothing else; ``show`` says of each slot what stays, what leaves and its bytes."""
    listed = make_manifest(run.trainer.partition, run.trainer.initial(3))
    for seen in run.rounds:
        assert {line.name for line in listed.lines} == seen.updates[run.name].delta.keys()
    further = {line.role for line in listed.lines if set_of(line.name) != "model"}
    assert further <= {Role.EXTRA, Role.SUMMARY}
    if run.trainer.method.slots:
        _shown(run.name)


def _shown(name: str) -> None:
    with temporary_store() as shelf:
        study = build(load_experiment("digits", [*settings_of(name), "data.limit=40"]), shelf, shelf)
        initial = study.trainer.initial(len(study.schema.union))
        parts = {(part.name, part.leaves): part for part in parts_of(tensor_table(study))}
        listed = make_manifest(study.trainer.partition, initial)
    assert {name for name, _ in parts} - {"summary"} == {slot.name for slot in study.method.slots}
    for slot in study.method.slots:
        its = {key: tensor for key, tensor in initial.items() if set_of(key) == slot.name}
        sent_bytes = sum(line.bytes for line in listed.lines if line.name in its)
        averaged = {key: tensor for key, tensor in its.items() if tensor.is_floating_point()}
        for leaves in (True, False):
            part = {key: one for key, one in its.items() if leaves == (slot.crosses and key in averaged)}
            wanted = StatePart(slot.name, len(part), size_in_bytes(part), leaves) if part else None
            assert parts.get((slot.name, leaves)) == wanted
        assert sent_bytes == (size_in_bytes(averaged) if slot.crosses else 0)


def policy(run: Run, folder) -> None:
    """A site that allows the manifest's roles sends the update, and one that allows all but one of them refuses it."""
    listed = make_manifest(run.trainer.partition, run.trainer.initial(3))
    seen, roles = run.rounds[0], frozenset(line.role for line in listed.lines)
    update = seen.updates[run.name]
    if not listed.lines:
        assert not update.delta
        return
    terms = Terms(seen.task.rounds, seen.task.seed, listed)
    allowed = Policy(
        *(roles, frozenset({run.name}), frozenset({"mlp"})),
        *(frozenset({"loss", "accuracy"}), listed.bytes, 1e6, 1, False, True),
    )
    check_task(seen.task, terms)
    check_update(update, seen.task, terms, allowed, None, run.name)
    for role in roles:
        narrower = replace(allowed, roles=roles - {role})
        with pytest.raises(Denied, match=role):
            check_update(update, seen.task, terms, narrower, None, run.name)


class Replayed:
    """A federation that answers with the updates of a run."""

    def __init__(self, updates) -> None:
        self.updates = updates

    def silos(self):
        return list(self.updates)

    def ask(self, task, names):
        return iter(self.updates.values())


def recorder(run: Run, folder) -> None:
    """The transcript has the tensors of each round that it was asked for, as they were sent and received."""
    for seen in run.rounds:
        recording = RecordingFederation(Replayed(seen.updates), folder, frozenset({2}))
        assert list(recording.ask(seen.task, recording.silos())) == list(seen.updates.values())
    (read,) = read_transcript(folder)
    assert read.round == 2
    assert same(read.shared, run.rounds[1].task.shared)
    assert read.deltas.keys() == run.rounds[1].updates.keys()
    for name, update in run.rounds[1].updates.items():
        assert same(read.deltas[name], update.delta)
        assert read.weights[name] == update.weight


def resume(run: Run, folder) -> None:
    """A run that was stopped after the first round goes on from its checkpoint, in another process, to the same bits."""
    first, second = run.rounds
    stopped = silos_of(run.trainer, run.name)
    for silo in stopped:
        silo.local, silo.labels = first.kept[silo.name].local, first.kept[silo.name].labels
    log = RunFolder.create(folder / "run", load_experiment("digits")).log
    save_run_state(log, first.after, {silo.name: silo for silo in stopped}, Totals())
    state, trainer = load_run_state(log), trainer_of(run.name)
    silos = silos_of(trainer, run.name)
    for silo in silos:
        silo.local, silo.labels = state.local[silo.name], state.labels[silo.name]
    watched = Watched(trainer, silos)
    (done,) = run_rounds(watched, PLAN, state.server, trainer.partition.roles)
    assert same(done.after.shared, second.after.shared)
    for name, kept in watched.kept().items():
        assert same(kept.local, second.kept[name].local)
        assert kept.labels == second.kept[name].labels


def site_store(run: Run, folder) -> None:
    """A site that was restarted reads the state and the last update that it had written."""
    silo, update = run.silo, run.rounds[0].updates[run.name]
    store = SiloStateStore(folder / "state", run.name)
    store.save("study", "schema", StoredRound("hash", silo.local, silo.labels, update, False))
    back = store.load("study", "schema")
    assert same(back.local, copy_state(silo.local))
    assert same(back.update.delta, update.delta)
    assert back.labels == silo.labels
