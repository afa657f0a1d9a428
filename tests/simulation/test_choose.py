"""Which engine an experiment gets. GPUs are simulated by a patched device count."""

import os

import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec
from fedtl.simulation import choose
from fedtl.simulation.processes import Processes
from fedtl.simulation.serial import Serial
from fedtl.simulation.settings import EngineSettings
from fedtl.simulation.stacked import Stacked
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer


def trainer(model="mlp", method="fedtl"):
    return Trainer(
        model_spec(model, (5,) if model == "mlp" else (1, 8, 8), 0), METHODS[method](), TrainingConfig()
    )


def chosen(settings, its, silos=6):
    engine = choose.make_engine(EngineSettings(**settings), its, None, silos)
    return type(engine), engine.workers


def on_gpus(its, monkeypatch, count=1):
    """A trainer made for the CPU that reports a GPU as its device."""
    net = its.net(1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    object.__setattr__(its, "net", lambda *_: net)
    object.__setattr__(its, "device", torch.device("cuda"))
    return its


def test_on_a_cpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4))
    assert chosen({}, trainer()) == (Processes, 4)
    assert chosen({}, trainer(), silos=3) == (Processes, 3)
    assert chosen({}, trainer(), silos=1) == (Serial, 1)
    assert chosen({"workers": 2}, trainer()) == (Processes, 2)
    assert chosen({"name": "serial"}, trainer()) == (Serial, 1)
    assert chosen({"stack": 3, "workers": 1}, trainer()) == (Stacked, 1)
    assert chosen({"stack": 3, "name": "serial"}, trainer()) == (Stacked, 1)
    assert chosen({"stack": 3, "workers": 2}, trainer()) == (Processes, 2)
    assert chosen({"stack": 3}, trainer(), silos=6) == (Processes, 2)  # as many as stacks
    assert chosen({"stack": 3}, trainer(), silos=3) == (Stacked, 1)
    assert chosen({"stack": 3}, trainer(), silos=1) == (Serial, 1)


def test_on_gpus(monkeypatch):
    assert chosen({}, on_gpus(trainer(), monkeypatch)) == (Stacked, 1)
    assert chosen({"stack": 1}, on_gpus(trainer(), monkeypatch)) == (Serial, 1)
    assert chosen({}, on_gpus(trainer(method="fedprox"), monkeypatch)) == (Serial, 1)
    assert chosen({}, on_gpus(trainer(), monkeypatch, 4)) == (Processes, 4)


def test_the_default_size_of_a_stack(monkeypatch):
    def size(model):
        return choose.make_engine(EngineSettings(), on_gpus(trainer(model), monkeypatch), None, 100)._size

    weights = sum(weight.numel() for weight in trainer("resnet20").net(1).parameters())
    assert size("mlp") == 64
    assert 2 <= size("resnet20") == choose.MAX_STACKED_WEIGHTS // weights < 64


def test_an_impossible_engine_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="Proximal"):
        choose.check_engine(EngineSettings(stack=4), trainer(method="fedprox"))
    choose.check_engine(EngineSettings(stack=1), trainer(method="fedprox"))
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs ray"):
        choose.check_engine(EngineSettings(name="ray"), trainer())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["engine.address=127.0.0.1:6379"], "engine.address"),
        (["engine.stack=4", "engine.name=ray"], 'engine.name = "ray"'),
    ],
)
def test_settings_that_contradict_each_other(settings, match):
    with pytest.raises(ConfigError, match=match):
        load_experiment("digits", settings)
