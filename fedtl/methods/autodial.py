"""
AutoDIAL: a silo without labels learns, layer by layer, how much of its own and of the others' statistics to normalise with.

Laws: at a silo with labels it is FedAvg; with 0 epochs every layer uses the mean of both statistics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedtl._util.settings import Count, Weight
from fedtl.methods.base import Finish, Method, Phase, Site
from fedtl.methods.entropy import Entropy
from fedtl.methods.sets import MODEL, Sets, as_part
from fedtl.methods.slot import Slot
from fedtl.models.roles import EVERYTHING, Role
from fedtl.models.state import State

EPS = 1e-5  # torch's default
MEAN = ".running_mean"


def mixed(sets: Sets) -> State:
    """
    Return the model that normalises with alpha times its own statistics plus 1 - alpha times those of ``source``.

    With mean m and variance v of the model, m_a and v_a of the mixture, scale g and shift b, the layer has the statistics
    m and v, the scale g sqrt((v + EPS) / (v_a + EPS)) and the shift b + g (m - m_a) / sqrt(v_a + EPS): the same function.
    """
    model, source = sets[MODEL], sets["source"]
    changed = dict(model)
    for path, alpha in sets["mixing"].items():
        mean, variance = f"{path}{MEAN}", f"{path}.running_var"
        scale = model[f"{path}.weight"]
        centre = torch.lerp(source[mean], model[mean], alpha)
        spread = (torch.lerp(source[variance], model[variance], alpha) + EPS).sqrt()
        changed[f"{path}.weight"] = scale * (model[variance] + EPS).sqrt() / spread
        changed[f"{path}.bias"] = model[f"{path}.bias"] + scale * (model[mean] - centre) / spread
    return changed


def statistics(model: State, roles: Mapping[str, Role]) -> State:
    return {name: tensor.clone() for name, tensor in model.items() if roles[name] is Role.STATS}


def halves(model: State, roles: Mapping[str, Role]) -> State:
    """Return alpha = 1/2 for each layer with statistics, scale and shift."""
    paths = [name.removesuffix(MEAN) for name in statistics(model, roles) if name.endswith(MEAN)]
    return {path: torch.tensor(0.5) for path in paths if {f"{path}.weight", f"{path}.bias"} <= model.keys()}


@dataclass(frozen=True)
class MixStatistics(Finish):
    """Learn the shares of the statistics on a silo's rows without labels, for ``epochs`` by plain steps of ``lr``; the rest stays."""

    epochs: Count = 10
    lr: Weight = 0.1
    trained: frozenset[Role] = frozenset({Role.NORM, Role.STATS})
    at = "unlabelled"
    fixes_statistics = True

    def __call__(self, site: Site, state: State, sets: Sets) -> State:
        received = as_part("source", {name: sets[MODEL][name] for name in sets["source"]})
        phase = Phase(
            self.trained - {Role.STATS},
            self.epochs,
            (Entropy(1.0),),
            on=("mixing",),
            through=mixed,
            into=MODEL,
            lr=self.lr,
        )
        return site.train(site.adapted(state, EVERYTHING) | received, phase)


def autodial(epochs: Count = 10, lr: Weight = 0.1) -> Method:
    """
    Carlucci et al., 2017 (AutoDIAL): silos with labels train a shared model; one without learns, layer by layer, how much of its
    own statistics to normalise with, by the entropy of its answers, after the last round and with fixed weights.
    """
    return Method(
        slots=(Slot("source", statistics), Slot("mixing", halves, shares=True)),
        finish=(MixStatistics(epochs, lr),),
    )
