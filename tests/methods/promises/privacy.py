"""The promises of the ledger, of provenance labels and of the audit."""

from dataclasses import replace

import pytest
import torch

from fedtl.audit.transcript import check_manifest
from fedtl.audit.verdict import failed
from fedtl.errors import ConfigError
from fedtl.methods.private import private_problems
from fedtl.models.roles import Role
from fedtl.privacy import accounting, charge
from fedtl.privacy.taint import Label
from tests.experiment.private_silos import bench_of, data_of, silo_of, studies_of, task_of
from tests.methods.promises.trained import Run
from tests.training.silos import same


def ledger(run: Run, folder) -> None:
    """
    A private round is charged once, before it is computed, and its reply is kept to the bit; where no charge covers what a method does, it
    is refused with the reason and nothing is charged.
    """
    seen = run.rounds[0]
    update, local = charge._unpacked(
        run.name, charge._packed(seen.updates[run.name], seen.kept[run.name].local)
    )
    assert same(update.delta, seen.updates[run.name].delta)
    assert same(local, seen.kept[run.name].local)
    trainer, rows = bench_of(run.name, model="mlp"), data_of()
    rows = replace(rows, target=rows.train.x[:12])
    if not trainer.method.phases and not trainer.method.summaries:
        with pytest.raises(ConfigError, match="trains nothing in rounds"):
            silo_of(trainer, folder, rows)
        return
    silo = silo_of(trainer, folder, rows)
    if problems := list(private_problems(trainer.method)):
        with pytest.raises(ConfigError) as refused:
            trainer.fit(silo, task_of(trainer))
        assert str(refused.value) == f"here: [privacy]: {problems[0]}"
        assert not silo.guarantee.account.path.exists()
    else:
        _charged(trainer, silo)


def _charged(trainer, silo) -> None:
    """Nothing but noisy tensors is in the update, and the same round again costs nothing and gives the same bytes."""
    task, before = task_of(trainer), silo.local
    update, after = trainer.fit(silo, task), silo.local
    assert (update.metrics, update.weight) == ({}, 1.0)
    assert update.delta.keys() == task.shared.keys()
    roles = trainer.partition.roles
    assert not any(update.delta[name].any() for name in update.delta if roles[name] is Role.STATS)
    assert any(tensor.any() for tensor in update.delta.values()) == bool(update.delta)
    events = tuple(studies_of(silo)["study"].events)
    assert events == accounting.merge_events(silo.guarantee.events(first=True))
    silo.local = before
    assert same(trainer.fit(silo, task).delta, update.delta)
    assert same(silo.local, after)
    assert tuple(studies_of(silo)["study"].events) == events


def labels(run: Run, folder) -> None:
    """Every tensor that stays has a provenance label, and what the rows moved is local-only."""
    kept = run.rounds[1].kept[run.name]
    assert kept.labels.keys() >= kept.local.keys()
    before = run.trainer.partition.split(run.trainer.initial(3))[1]
    moved = {key for key in before if not torch.equal(before[key], kept.local[key])}
    assert {kept.labels[key] for key in moved} <= {Label.LOCAL}


def audit(run: Run, folder) -> None:
    """The audit finds every tensor of the transcript on the manifest that follows from the model, and one more is found."""
    trainer = run.trainer
    initial, seen = trainer.initial(3), [one.recorded() for one in run.rounds]
    assert not failed(check_manifest(seen, trainer.partition, initial, trainer.encoding))
    stays = next(name for name in (*initial, "none") if name not in seen[0].shared)
    tensor = initial.get(stays, torch.zeros(1))
    odd = replace(seen[0], deltas={**seen[0].deltas, run.name: {**seen[0].deltas[run.name], stays: tensor}})
    (found,) = failed(check_manifest([odd], trainer.partition, initial, trainer.encoding))
    assert found.silo == run.name
