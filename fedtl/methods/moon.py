"""
MOON: features stay near those of the received model and away from those of the silo's last own one.

Law: with mu = 0 it is FedAvg.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtl._util.settings import Positive, Weight
from fedtl.methods.base import Method
from fedtl.methods.losses import Forward, PerExample, TaskLoss
from fedtl.methods.sets import RECEIVED
from fedtl.methods.slot import Slot
from fedtl.methods.slots import first_model, trained_model
from fedtl.models.net import Shape


@dataclass(frozen=True)
class ModelContrast(PerExample):
    """Li et al., 2021: mu log(1 + e^((s(z, z_previous) - s(z, z_received)) / t)), with s the cosine similarity."""

    any_task = True
    mu: Weight = 1.0
    temperature: Positive = 0.5

    def modules(self, features: int, shape: Shape) -> dict[str, nn.Module]:
        return {
            "moon": nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
        }

    def losses(self, out: Forward) -> Tensor:
        z, received, previous = (
            model.aux["moon"](model.features) for model in (out, out.by(RECEIVED), out.by("previous"))
        )
        likeness = [F.cosine_similarity(z, other) / self.temperature for other in (received, previous)]
        first = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        return self.mu * F.cross_entropy(torch.stack(likeness, 1), first, reduction="none")


def moon(mu: Weight = 1.0, temperature: Positive = 0.5) -> Method:
    """Li et al., 2021 (MOON): features near those of the received model and away from those of the silo's last own one."""
    previous = Slot("previous", first_model, after=trained_model)
    return Method(objective=(TaskLoss(), ModelContrast(mu, temperature)), slots=(previous,))
