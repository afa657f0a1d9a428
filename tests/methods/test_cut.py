"""A cut through the body: which tensors leave, and which methods cannot be cut."""

import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment, MethodSettings
from fedtl.experiment.study import _model_spec
from fedtl.methods.cut import with_cut
from fedtl.methods.registry import METHODS
from fedtl.models.net import stage_tensors
from fedtl.models.registry import model_spec
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import data_of, federate, same, silo_at, spec_for

CUTTABLE, WHOLE = [], []
for name, make in METHODS.items():
    try:
        with_cut(make(), 1)
        CUTTABLE.append(name)
    except ValueError:
        WHOLE.append(name)


def trainer_of(name, cut, spec=None):
    return Trainer(spec or spec_for(name), with_cut(METHODS[name](), cut), TrainingConfig(batch_size=8))


def leaving(trainer):
    return {name for name in trainer.partition.roles if trainer.partition.leaves(name)}


def test_what_cannot_be_cut():
    assert {"local", "probe", "pooled", "lgfedavg", "scaffold", "ridge"} <= set(WHOLE)
    assert {"fedavg", "fedbn", "fedtl", "fedper", "ditto"} <= set(CUTTABLE)
    with pytest.raises(ConfigError, match="method.cut = 1"):
        method_of(MethodSettings(name="scaffold", cut=1))
    with pytest.raises(ConfigError, match="has 3 stages"):
        _model_spec(Experiment(method=MethodSettings(cut=4)), (1, 8, 8))


@pytest.mark.zoo
@pytest.mark.parametrize("name", CUTTABLE)
def test_what_leaves_is_what_the_method_shares_of_the_first_stages(name):
    spec = model_spec("resnet20", (3, 8, 8), 0) if name == "fedtl" else spec_for(name)
    parts = [{f"body.{one}" for one in stage} for stage in stage_tensors(spec.body)]
    whole = leaving(Trainer(spec, METHODS[name](), TrainingConfig()))
    body = {one for one in whole if one.startswith("body.")}
    assert body <= set().union(*parts)
    for cut in range(1, len(parts) + 1):
        assert leaving(trainer_of(name, cut, spec)) == body & set().union(*parts[:cut]), cut


def test_every_tensor_of_a_body_is_in_one_stage():
    for name in ("convnet", "resnet20"):
        body = model_spec(name, (3, 8, 8), 0).body
        names = [one for stage in stage_tensors(body) for one in stage]
        assert sorted(names) == sorted(body.state_dict())


def test_upper_stages_differ_between_silos_after_training_and_the_first_do_not():
    trainer = trainer_of("fedtl", 1)
    silos = [silo_at(trainer, name, data_of(seed, 20 + seed)) for seed, name in enumerate("ab")]
    end = federate(trainer, silos, 2)[-1]
    states = [trainer.partition.join(end.after.shared, silo.local) for silo in silos]
    parts = stage_tensors(trainer.spec.body)
    upper = [f"body.{name}" for name in parts[1] if name.endswith("weight")]
    assert same({n: states[0][n] for n in end.after.shared}, {n: states[1][n] for n in end.after.shared})
    assert upper
    assert not any(torch.equal(states[0][n], states[1][n]) for n in upper)
    assert {name.split(".")[2] for name in end.after.shared} == {
        "1",
        "2",
    }  # of Flatten, Linear, BatchNorm, ...
