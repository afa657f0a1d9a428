"""Inputs that all may see, as a silo trains on them and scores them."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedtl._util.labels import without_labels
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.origins import LEARNED
from fedtl.methods.base import Phase
from fedtl.methods.losses import Forward
from fedtl.methods.sets import MODEL
from fedtl.methods.summary import Summary
from fedtl.models.state import State
from fedtl.training.batches import ROWS_AT_ONCE, make_batch
from fedtl.training.silo import Silo
from fedtl.training.weights import Weights

NONE = torch.empty(0)


def as_silo_data(data: SiloDataset, public: Tensor | None) -> SiloDataset:
    """Return public inputs [N, ...] as training rows without labels, for a model with the labels of this silo."""
    x = data.train.x[:0] if public is None else public
    y = without_labels(len(x), data.train.y)
    nothing = Dataset(x[:0], y[:0])
    return replace(data, train=Dataset(x, y), val=nothing, target=None, origins=LEARNED, one_domain=False)


def trained_on(phase: Phase, silo: Silo, public: Tensor | None) -> Silo:
    """Return the silo with the rows that a phase trains on."""
    return replace(silo, data=as_silo_data(silo.data, public)) if phase.public else silo


@torch.no_grad()
def public_vectors(
    summary: Summary, weights: Weights, data: SiloDataset, public: Tensor | None, exact: State | None
) -> Tensor:
    """
    Return a summary's vectors [N, ...] on the public inputs, by the model as trained. ``exact``: the model's statistics where the
    summary asks for exact ones.
    """
    device, rows = weights.compute[0], as_silo_data(data, public)
    if exact is not None and summary.exact_statistics:
        weights = replace(
            weights, sets={**weights.sets, MODEL: {**weights.sets[MODEL], **_on(exact, device)}}
        )
    parts = []
    for numbers in torch.arange(len(rows.train)).split(ROWS_AT_ONCE):
        if len(numbers):
            batch = make_batch(rows, numbers, None, device)
            parts.append(summary.rows(Forward(batch, weights.by(MODEL), 1.0, weights.summaries)).float())
    return torch.cat(parts) if parts else torch.zeros_like(weights.summaries[summary.name])


def _on(state: Mapping[str, Tensor], device: torch.device) -> State:
    return {name: tensor.to(device) for name, tensor in state.items()}
