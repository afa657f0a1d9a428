"""Silos whose models differ, and the methods that allow it."""

import numpy as np
import pytest

from fedtl.audit.audit import refuse_unauditable
from fedtl.errors import ConfigError
from fedtl.experiment.columns import comparison_columns
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.simulation.shared_store import temporary_store
from tests.experiment.runs import do, numbers, same, small, tensors
from tests.experiments import MIXED

FEDMD = ("method.name=fedmd", 'data.public=["faint","noise:9"]', 'data.silos=["plain","blurred"]')
OTHER = ("silo.plain.model.name=mlp", "silo.plain.model.settings.width=16")
PRIVATE = "privacy.epsilon=3"
REFUSED = {
    ("method.name=fedavg", *OTHER): "silo.plain.model: method 'fedavg'",
    ("method.name=scaffold", *OTHER): "silo.plain.model: method 'scaffold'",
    (*FEDMD, *OTHER, PRIVATE): "silo.plain.model and [privacy]",
    (*FEDMD, PRIVATE): "[privacy] and method 'fedmd'",
    (*FEDMD, *OTHER, "model.freeze=1"): "model.freeze = 1",
    (
        *FEDMD,
        "silo.plain.model.name=mlp",
        "silo.plain.model.settings.wdth=3",
    ): "silo.plain.model.settings.wdth",
    (*FEDMD, "silo.plain.model.settings.width=3"): "silo.plain.model.name",
    (*FEDMD, *OTHER, "method.weighting=loud"): "method.weighting",
    ("method.name=fedmd",): "data.public",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_is_refused(overrides):
    with pytest.raises(ConfigError) as caught:
        load_experiment("digits", overrides)
    assert REFUSED[overrides] in str(caught.value)
    assert "\n" not in str(caught.value)


def notes_of(*overrides):
    with temporary_store() as store:
        return build(small(*overrides), store, store).notes


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("silo.plane.model.name=mlp",), "silo.plane"),
        (("silo.plain.model.name=mlpp",), "mlpp"),
        (("method.name=local", *OTHER, "engine.stack=2"), "models differ"),
    ],
)
def test_what_is_refused_before_anything_is_trained(overrides, words):
    from fedtl.errors import FedTLError

    with pytest.raises(FedTLError, match=words):
        notes_of(*FEDMD, *overrides)


def test_the_notes_name_the_models_and_say_who_reads_public_inputs():
    notes = notes_of(*FEDMD, *OTHER)
    assert any("plain: mlp" in note for note in notes)
    assert any("49 inputs of faint, noise:9" in note and "by every silo" in note for note in notes)


def test_an_audit_refuses_silos_whose_models_differ():
    with pytest.raises(ConfigError, match="silo.plain.model"):
        refuse_unauditable(small(*FEDMD, *OTHER))
    refuse_unauditable(small(*FEDMD))


@pytest.mark.slow
def test_a_run_its_resumption_and_what_is_made_of_it(tmp_path):
    experiment = small(*FEDMD, *OTHER, *MIXED, "model.settings.widths=[8,8,8]")
    first = do(tmp_path / "a", experiment)
    assert first["silos"].keys() == {"blurred", "plain"}
    assert first["bytes_up"] == 2 * 2 * 49 * 10 * 4  # two rounds, two silos, float32

    class Killed(Exception):
        pass

    def stop(finished):
        if finished.after.round == 1:
            raise Killed

    folder = RunFolder.create(tmp_path / "b", experiment)
    with pytest.raises(Killed):
        run(experiment, folder, progress=stop)
    run(folder.experiment(), folder)
    assert numbers(first) == numbers(folder.read_json("result.json"))
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))

    x = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    models = {name: SiloModel(folder, name) for name in ("plain", "blurred")}
    for name, model in models.items():
        scored = folder.tensors(f"silos/{name}/test.safetensors")["scores"]
        assert model.scores(x).shape == (5, scored.shape[1])
    sizes = {
        name: sum(w.numel() for w in model.trainer.net(10).parameters()) for name, model in models.items()
    }
    assert sizes["plain"] != sizes["blurred"]
    export_model(models["plain"], tmp_path / "out")
    assert RunFolder(tmp_path / "out").read_json("model.json")["model"] == "mlp"


@pytest.mark.slow
def test_processes_give_the_bits_of_serial(tmp_path):
    first = do(tmp_path / "a", small(*FEDMD, *OTHER))
    second = do(tmp_path / "b", small(*FEDMD, *OTHER, "engine.name=processes", "engine.workers=2"))
    assert numbers(first) == numbers(second)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_a_private_comparison_does_not_take_it_for_a_baseline():
    private = small('compare.methods=["local","fedmd"]', "privacy.epsilon=3", "method.name=fedbn", *FEDMD[1:])
    with pytest.raises(ConfigError, match="method 'fedmd'"):
        comparison_columns(private)
