"""Provenance labels of a silo's tensors, and that no private round starts from a tensor without protection."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedtl.errors import Refused
from fedtl.experiment.checkpoint import load_run_state
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.provenance import provenance_after_finish, provenance_after_rounds
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.experiment.tensor_table import tensor_table
from fedtl.messages import Task
from fedtl.methods.base import Finish, Method, Phase
from fedtl.methods.registry import METHODS
from fedtl.methods.sets import MODEL
from fedtl.methods.slot import Slot
from fedtl.methods.slots import first_model
from fedtl.methods.tune import Tune
from fedtl.models.roles import Role
from fedtl.privacy import taint
from fedtl.privacy.taint import Label
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from tests.experiment.private_silos import bench_of, data_of, silo_of, task_of
from tests.experiments import ROUNDS_ONLY


def trained_openly(trainer, silo, task):
    """One round without the guarantee, as a careless simulation might run it."""
    guarantee, silo.guarantee = silo.guarantee, None
    trainer.fit(silo, task)
    silo.guarantee = guarantee


@pytest.mark.parametrize(
    ("method", "tensor"), [("fedtl", "head.weight"), ("fedbabu", "head.weight"), ("fedbn", "running_mean")]
)
def test_tensor_trained_without_noise_never_enters_a_private_round(method, tensor, tmp_path):
    trainer = bench_of(method)
    silo = silo_of(trainer, tmp_path)
    if method == "fedbabu":  # its head never moves, so nothing of it owes anything to the rows
        trained_openly(trainer, silo, task_of(trainer))
        assert silo.labels["head.weight"] is Label.PUBLIC
        return
    trained_openly(trainer, silo, task_of(trainer))
    with pytest.raises(Refused, match="is local-only") as error:
        trainer.fit(silo, task_of(trainer))
    assert silo.guarantee.account.path.exists() is False  # refused before anything was charged
    assert any(name in str(error.value) for name in silo.local)


def test_tensor_without_a_label_is_refused(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path)
    silo.labels = {}
    with pytest.raises(Refused, match="no provenance label"):
        trainer.fit(silo, task_of(trainer))


@pytest.mark.parametrize(("statistics", "label"), [("public", Label.PUBLIC), ("dp", Label.RELEASED)])
def test_labels_follow_the_rounds(statistics, label, tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path, statistics=statistics)
    assert set(silo.labels.values()) == {Label.PUBLIC}
    for number in (1, 2):
        trainer.fit(silo, task_of(trainer, number))
        assert silo.labels["head.weight"] is Label.MECHANISM
        statistics_of = trainer.partition.names(Role.STATS)
        assert {silo.labels[name] for name in statistics_of} == {label}


def test_local_only_is_permanent(tmp_path):
    seen = taint.labels_after(taint.untrained_labels(Role), {Role.HEAD}, private=False)
    assert taint.labels_after(seen, {Role.STATS}, private=False)[Role.HEAD] is Label.LOCAL
    assert seen[Role.STATS] is Label.PUBLIC


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_labels_survive_engines_and_a_checkpoint(tmp_path, engine):
    sets = [
        "rounds=1",
        "data.limit=40",
        f"engine.name={engine}",
        "engine.workers=2",
        "privacy.epsilon=8",
        *ROUNDS_ONLY,
    ]
    experiment = load_experiment("digits", sets)
    run(experiment, RunFolder.create(tmp_path / "run", experiment))
    own = load_run_state(RunFolder.open(tmp_path / "run").log).labels
    for its in own.values():
        assert its["head.weight"] is Label.MECHANISM
        assert {label for name, label in its.items() if "running" in name} == {Label.PUBLIC}
    open_ = load_experiment("digits", [one for one in sets if not one.startswith("privacy")])
    run(open_, RunFolder.create(tmp_path / "open", open_))
    own = load_run_state(RunFolder.open(tmp_path / "open").log).labels
    for its in own.values():
        assert {label for name, label in its.items() if "running" in name or "head" in name} == {Label.LOCAL}


def test_labels_that_an_earlier_version_kept_by_role_are_read(tmp_path):
    trainer = bench_of()
    silo = silo_of(trainer, tmp_path)
    silo.labels = dict.fromkeys(("head", "stats", "count"), Label.PUBLIC)
    trainer.fit(silo, task_of(trainer))
    assert silo.labels["head.weight"] is Label.MECHANISM
    silo.labels = {"head": Label.LOCAL, "stats": Label.PUBLIC}
    with pytest.raises(Refused, match=r"head\.bias"):
        trainer.fit(silo, task_of(trainer, 2))


def test_show_prints_the_provenance_of_each_tensor(tmp_path):
    from fedtl.simulation.shared_store import temporary_store

    with temporary_store() as shelf:
        study = build(load_experiment("digits", ["privacy.epsilon=3", "privacy.statistics=dp"]), shelf, shelf)
        table = {row.name: row.label for row in tensor_table(study)}
    assert table["head.weight"] == "private-mechanism"
    assert {label for name, label in table.items() if "running" in name} == {"released"}
    assert {label for name, label in table.items() if name.endswith("affine.weight")} == {"released"}


def labels_shown(*settings):
    from fedtl.simulation.shared_store import temporary_store

    with temporary_store() as shelf:
        study = build(load_experiment("digits", ["privacy.epsilon=3", *settings]), shelf, shelf)
        return {row.name: row.label for row in tensor_table(study)}


@pytest.mark.parametrize("method", ["fedtl", "fedavg"])
def test_show_distinguishes_released_statistics(method):
    table = labels_shown("privacy.statistics=dp", "privacy.stages=[1]", f"method.name={method}")
    found = {label: {name for name in table if "running" in name and table[name] == label} for label in Label}
    assert found[Label.RELEASED] == {f"body.features.1.norm.running_{what}" for what in ("mean", "var")}
    assert len(found[Label.PUBLIC]) == 4


def test_show_distinguishes_frozen_stages():
    table = labels_shown("model.freeze=1")
    assert {name for name, label in table.items() if label == "public" and "running" not in name} == {
        *("body.features.0.weight", "body.features.1.affine.weight", "body.features.1.affine.bias")
    }


def test_personal_model_is_made_on_a_copy(tmp_path):
    """Exact statistics and a head fitted afterwards are for the silo's own use, and do not remain in its state."""
    from dataclasses import replace

    from fedtl.methods.registry import METHODS
    from fedtl.models.registry import model_spec, with_private_norms
    from fedtl.training.loop import TrainingConfig
    from fedtl.training.trainer import Trainer

    method = replace(METHODS["fedtl"](), finish=(Tune("head", 3),))
    trainer = Trainer(
        with_private_norms(model_spec("convnet", (1, 8, 8), 0)), method, TrainingConfig(batch_size=16)
    )
    silo = silo_of(trainer, tmp_path, data_of())
    task = task_of(trainer)
    trainer.fit(silo, task)
    before = {name: tensor.clone() for name, tensor in silo.local.items()}
    own = tuned_model(trainer, silo, Task("study", 4, 3, 0, task.shared))
    assert any((own[name] != before[name]).any() for name in before)
    assert all((silo.local[name] == before[name]).all() for name in before)


def test_a_frozen_tensor_that_another_set_replaces_was_trained_on_rows(tmp_path):
    def shifted(ended):
        mean = ended.after[MODEL]["head.weight"].mean()
        return {
            name: one + mean if one.is_floating_point() else one for name, one in ended.after["own"].items()
        }

    phases = (Phase(on=("own",), into=MODEL, epochs=0), Phase())
    method = Method(frozenset(), phases=phases, slots=(Slot("own", first_model, after=shifted),))
    trainer = bench_of(method, TrainingConfig(batch_size=16, freeze=1))
    silo = silo_of(trainer, tmp_path)
    (frozen, *_) = trainer.loop.frozen
    first = silo.local[frozen]
    for number in (1, 2):
        trained_openly(trainer, silo, task_of(trainer, number))
    assert not torch.equal(silo.local[frozen], first)
    assert silo.labels[frozen] is Label.LOCAL
    public = taint.untrained_labels(trainer.partition.roles)
    assert provenance_after_rounds(trainer, public, None)[frozen] is Label.LOCAL


class RunningMean(nn.Module):
    """A buffer that is no norm's, so that no phase names its role."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.level.copy_(x.detach().mean())
        return x - self.level


def test_a_buffer_that_follows_the_rows_is_local_only_whatever_the_phase_trains(tmp_path):
    heads = Phase(train=frozenset({Role.HEAD}))
    trainer = bench_of(replace(METHODS["lgfedavg"](), phases=(heads,)))
    body = nn.Sequential(RunningMean(), trainer.spec.body)
    trainer = replace(trainer, spec=replace(trainer.spec, body=body))
    silo = silo_of(trainer, tmp_path)
    trained_openly(trainer, silo, task_of(trainer))
    assert silo.local["body.0.level"].any()
    assert silo.labels["body.0.level"] is Label.LOCAL
    public = taint.untrained_labels(trainer.partition.roles)
    assert provenance_after_rounds(trainer, public, None)["body.0.level"] is Label.LOCAL
    with pytest.raises(Refused, match=r"body.0.level is local-only"):
        trainer.fit(silo, task_of(trainer))


class Sly(Finish):
    """Trains, and says that it trains nothing."""

    def __call__(self, site, state, sets):
        return site.train(state, Phase())


def test_a_finishing_step_of_another_kind_makes_a_model_for_the_silo_alone():
    trainer = bench_of(replace(METHODS["fedavg"](), finish=(Sly(),)))
    private = dict.fromkeys(trainer.partition.roles, Label.MECHANISM)
    assert set(provenance_after_finish(trainer, private).values()) == {Label.LOCAL}


def test_a_choice_among_models_by_validation_rows_is_for_the_silo_alone():
    """Each of the models was trained with noise, but which one it is depends on rows without noise."""
    for grid, label in (((), Label.MECHANISM), ((0.0, 1.0), Label.LOCAL)):
        trainer = bench_of(METHODS["mrmtl"](0.5, grid))
        private = dict.fromkeys(trainer.partition.roles, Label.MECHANISM)
        assert set(provenance_after_finish(trainer, private).values()) == {label}


def test_a_buffer_that_tuning_at_home_writes_to_is_local_only():
    head = Tune("head", 1)
    trainer = bench_of(replace(METHODS["fedavg"](), tune=head))
    body = nn.Sequential(RunningMean(), trainer.spec.body)
    trainer = replace(trainer, spec=replace(trainer.spec, body=body))
    data, task = data_of(), task_of(trainer)
    data = replace(data, val=data.val.take(torch.arange(0)))  # so that every epoch is kept
    silo = Silo("here", data, trainer.partition.split(trainer.initial(3))[1], b"secret")
    tuned, before = tuned_model(trainer, silo, task), trainer.partition.join(task.shared, silo.local)
    assert not torch.equal(tuned["body.0.level"], before["body.0.level"])
    private = dict.fromkeys(trainer.partition.roles, Label.MECHANISM)
    labels = provenance_after_finish(trainer, private)
    changed = {name for name, tensor in tuned.items() if not torch.equal(tensor, before[name])}
    assert {labels[name] for name in changed} == {Label.LOCAL}
    assert labels["body.1.features.0.weight"] is Label.MECHANISM
