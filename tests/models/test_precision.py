"""Precision: bfloat16 in forward passes if set, and float32 in all weights and statistics."""

import pytest
import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import ConfigError
from fedtl.messages import Task
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec
from fedtl.simulation.engine import Fit
from fedtl.simulation.serial import Serial
from fedtl.simulation.stacked import Stacked
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


def trainer(dtype):
    return Trainer(model_spec("mlp", (5,), 0), METHODS["fedtl"](), TrainingConfig(batch_size=8), dtype=dtype)


def silo_of(trainer, name):
    generator = torch.Generator().manual_seed(ord(name))
    rows = Dataset(torch.randn(40, 5, generator=generator), torch.randint(3, (40,), generator=generator))
    _, local = trainer.partition.split(trainer.initial(3))
    return Silo(name, SiloDataset(rows, rows, ("x", "y", "z")), local, b"secret")


@pytest.mark.parametrize("engine", [Serial, lambda trainer: Stacked(trainer, 2)], ids=["serial", "stacked"])
def test_bf16_computes_in_bfloat16_and_keeps_float32(engine, caplog):
    """With an 8-bit mantissa the result of training is close to float32, but not equal. A stack stays a stack."""
    found = {}
    for dtype in ("float32", "bf16"):
        its = trainer(dtype)
        silos = [silo_of(its, name) for name in ("a", "b")]
        shared, _ = its.partition.split(its.initial(3))
        updates = dict(engine(its).each(Fit(Task("test", 1, 1, 0, shared)), silos))
        assert not caplog.records
        tensors = [tensor for update in updates.values() for tensor in update.delta.values()]
        assert all(tensor.dtype == torch.float32 for tensor in tensors)
        state = its.partition.join(shared, silos[0].local)
        scores = its.scores(state, silos[0].data.val.x, silos[0].data)
        assert scores.dtype == torch.float32
        found[dtype] = torch.cat([tensor.flatten() for tensor in tensors]), scores
    for one, other in zip(found["float32"], found["bf16"], strict=True):
        assert not torch.equal(one, other)
        assert (one - other).norm() < 0.2 * one.norm()


def test_scores_equal_those_of_autocast():
    its = trainer("bf16")
    silo = silo_of(its, "a")
    net, x = its.net(3), silo.data.val.x
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = net.eval()(x)
    assert wanted.dtype == torch.bfloat16
    assert torch.equal(its.scores(state, x, silo.data), wanted.float())


def test_tf32_is_refused_without_cuda():
    with pytest.raises(ConfigError, match="model.dtype = .tf32"):
        trainer("tf32")
