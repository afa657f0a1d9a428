"""AutoDIAL: the mixture of statistics against torch's own batch norm, and what is learned at a silo without labels."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from fedtl.methods.autodial import EPS, autodial, mixed
from fedtl.methods.entropy import entropies
from fedtl.methods.registry import METHODS
from fedtl.methods.sets import MODEL
from fedtl.models.roles import Role
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.training.silos import by_role, mlp, moved, silo_at, task_for


def test_a_mixed_layer_is_batch_norm_with_interpolated_statistics():
    generator = torch.Generator().manual_seed(0)
    m, m_source, g, b = (torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(4))
    v, v_source = (torch.rand(4, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    x = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    model = {"n.running_mean": m, "n.running_var": v, "n.weight": g, "n.bias": b, "other": x}
    source = {"n.running_mean": m_source, "n.running_var": v_source}
    for alpha in (0.0, 0.3, 1.0):
        got = mixed({MODEL: model, "source": source, "mixing": {"n": torch.tensor(alpha).double()}})
        mean, variance = alpha * m + (1 - alpha) * m_source, alpha * v + (1 - alpha) * v_source
        wanted = F.batch_norm(x, mean, variance, g, b, eps=EPS)
        assert torch.allclose(
            F.batch_norm(
                x, got["n.running_mean"], got["n.running_var"], got["n.weight"], got["n.bias"], eps=EPS
            ),
            wanted,
        )
        assert got["other"] is x


def without_labels(silo):
    data = silo.data
    data = replace(data, train=data.train.take(torch.arange(0)), target=data.train.x, one_domain=True)
    return replace(silo, data=data)


def trained(method):
    trainer = Trainer(mlp(), method, TrainingConfig(batch_size=8))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    return trainer, without_labels(silo), task, tuned_model(trainer, without_labels(silo), task)


def test_a_silo_without_labels_learns_shares_that_lower_the_entropy():
    trainer, silo, _, start = trained(autodial(epochs=0))
    settled = trained(autodial(epochs=5))[3]
    first, last = (
        entropies(trainer.scores(state, silo.data.inputs, silo.data)).mean() for state in (start, settled)
    )
    assert last < first
    assert not moved(start, settled) & by_role(trainer, Role.BODY, Role.HEAD, Role.STATS)
    assert moved(start, settled)


def test_with_half_of_each_the_scores_are_those_of_the_mean_of_both_statistics():
    trainer, silo, task, settled = trained(autodial(epochs=0))
    received = trainer.partition.join(task.shared, silo.local)
    own = trainer.adapt(received, silo.data.inputs, silo.data.width)
    names = by_role(trainer, Role.STATS)
    half = own | {name: (own[name] + received[name]) / 2 for name in names}
    x = silo.data.inputs
    assert torch.allclose(
        trainer.scores(settled, x, silo.data), trainer.scores(half, x, silo.data), atol=1e-5
    )
    assert not torch.allclose(
        trainer.scores(settled, x, silo.data), trainer.scores(own, x, silo.data), atol=1e-2
    )


def test_autodial_is_listed():
    assert METHODS["autodial"] is autodial
