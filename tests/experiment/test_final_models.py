"""The final model of a silo in its files: the same scores when it is read again, and provenance labels that hold."""

import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.experiment.checkpoint import load_run_state
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.final_models import load_final_model, save_final_model
from fedtl.experiment.own_models import StoredOwnModels
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.candidate import Candidate
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.privacy.taint import Label, untrained_labels
from fedtl.privacy.taint_metadata import read_labels
from fedtl.training.at_home import FinalModel, Member, alone_trainer
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import OwnStart, Trainer
from tests.experiment.private_silos import data_of, silo_of, task_of

PRIVATE = ["rounds=1", "data.limit=40", "engine.name=serial", "privacy.epsilon=8", "method.tune.epochs=0"]


def trainer_of():
    spec = model_spec("convnet", (1, 8, 8), 0)
    return Trainer(with_private_norms(spec), METHODS["fedtl"](), TrainingConfig(), alone=OwnStart(spec))


def changed(state):
    generator = torch.Generator().manual_seed(0)
    return {
        name: one + torch.rand(one.shape, generator=generator) if one.is_floating_point() else one
        for name, one in sorted(state.items())
    }


@pytest.mark.parametrize("names", [("own",), ("own", "tuned"), ("tuned",)], ids=" and ".join)
def test_a_final_model_is_read_as_it_was_written(names, tmp_path):
    trainer, data = trainer_of(), data_of()
    states = {"own": changed(alone_trainer(trainer).initial(3)), "tuned": changed(trainer.initial(3))}
    model = FinalModel(tuple(Member(Candidate(name), 1 / len(names), states[name]) for name in names), 9, 5)
    folder = RunFolder.create(tmp_path / "run", load_experiment("digits", PRIVATE))
    shared, _ = trainer.partition.split(trainer.initial(3))
    folder.save_tensors("shared.safetensors", shared)
    labels = untrained_labels(trainer.loop.roles)
    save_final_model(folder, "here", model, shared, labels)
    again = load_final_model(folder, "here", trainer.loop.roles)
    assert torch.equal(again.scores(trainer, data.val.x, data), model.scores(trainer, data.val.x, data))
    written = read_labels(tmp_path / "run/silos/here/local.safetensors")
    assert {label for name, label in written.items() if name.startswith("own/")} <= {Label.LOCAL}
    assert {label for name, label in written.items() if "/" not in name} <= {Label.PUBLIC}
    assert any(name.startswith("own/") for name in written) == ("own" in names)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A private run after which a silo uses the model that it trained alone."""
    experiment = load_experiment(
        "digits", [*PRIVATE, 'data.silos=["faint","plain"]', "method.choose.candidates=['own']"]
    )
    folder = RunFolder.create(tmp_path_factory.mktemp("alone") / "run", experiment)
    run(experiment, folder)
    return folder


def test_a_silo_predicts_with_the_model_that_was_scored(alone):
    silo, tests = SiloModel(alone, "plain"), alone.tensors("silos/plain/test.safetensors")
    assert [member.name for member in silo.final.members] == [Candidate.OWN]
    from fedtl.data.registry import DATA

    raw = DATA["digits"].read(alone.experiment().data, "plain")
    scores = silo.scores(raw.train.x[tests["ids"].numpy()])
    torch.testing.assert_close(scores, tests["scores"], atol=1e-5, rtol=1e-5)


def test_what_is_fitted_at_home_is_not_in_what_a_run_continues_from_nor_in_what_left(alone):
    state, own = load_run_state(alone.log), alone.tensors("silos/plain/local.safetensors")
    assert {label for labels in state.labels.values() for label in labels.values()}.isdisjoint({Label.LOCAL})
    fitted = own["own/head.weight"]
    assert not torch.equal(state.local["plain"]["head.weight"], fitted)
    assert all(not line.silos["plain"] for line in alone.history())  # no metric left
    assert {"silos", "mean", "worst"} <= set(alone.result().privacy.not_released)


def test_no_private_run_starts_from_the_model_that_a_silo_trained_alone(alone, tmp_path):
    export_model(SiloModel(alone, "plain"), tmp_path / "exported")
    file = tmp_path / "exported/model.safetensors"
    assert set(read_labels(file).values()) == {Label.LOCAL}
    experiment = load_experiment("digits", [*PRIVATE, f"model.weights={file}"])
    with pytest.raises(ConfigError, match="is local-only"):
        run(experiment, RunFolder.create(tmp_path / "next", experiment))


def test_a_stored_own_model_says_that_it_is_local_only(tmp_path):
    trainer = trainer_of()
    silo = silo_of(trainer, tmp_path)
    ledger = silo.guarantee.account.path
    state = StoredOwnModels(tmp_path / "own", "key")(trainer, silo, task_of(trainer, rounds=1))
    (file,) = (tmp_path / "own").rglob("*.safetensors")
    assert set(read_labels(file).values()) == {Label.LOCAL}
    assert read_labels(file).keys() == state.keys()
    assert not ledger.exists()  # nothing was charged, and nothing in the silo changed
    assert set(silo.labels.values()) == {Label.PUBLIC}
