"""The outputs of a model on a silo's rows, and the exact statistics of its normalisation layers. Trains nothing."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedtl._util.labels import is_known
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.methods.base import LabelledFeatures, Method
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.models import precision
from fedtl.models.net import Net
from fedtl.models.norms import adabn_statistics
from fedtl.models.roles import Partition, Role
from fedtl.models.state import State, copy_state
from fedtl.training.batches import ROWS_AT_ONCE, in_batches, to_inputs


@torch.no_grad()
def scores_of(net: Net, x: Tensor, data: SiloDataset, device: torch.device, dtype: str) -> Tensor:
    """Return the net's outputs [N, width] on the CPU; for regression in the label's own unit."""
    net.eval()
    with precision.autocast_for(dtype, device):
        chunks = [_scores(net, to_inputs(part, device)) for part in x.split(ROWS_AT_ONCE) if len(part)]
    scores = torch.cat(chunks) if chunks else torch.empty(0, data.width)
    return data.in_label_unit(scores)


def _scores(net: Net, x: Tensor) -> Tensor:
    return net(x).float().cpu().contiguous()  # scores by pixel follow the memory format of images


@torch.no_grad()
def labelled_features(
    net: Net, rows: Dataset, data: SiloDataset, device: torch.device, dtype: str
) -> LabelledFeatures:
    """Return the features of the net's body for the rows that have a label."""
    y = data.scaled(rows.y)
    known = is_known(y)
    return LabelledFeatures(features_of(net, rows.take(known).x, device, dtype), y[known], data.task)


@torch.no_grad()
def features_of(
    net: Net, x: Tensor, device: torch.device, dtype: str, watch: Callable[[int, int], object] | None = None
) -> Tensor:
    """
    Return the features [N, D] of the net's body on the CPU, averaged over positions if it leaves any. ``watch`` is called with how
    many rows are done, and of how many.
    """
    net.eval()
    chunks: list[Tensor] = []
    for part in x.split(ROWS_AT_ONCE):
        with precision.autocast_for(dtype, device):
            chunks.append(net.body(to_inputs(part, device)).float().cpu())
        if watch:
            watch(sum(map(len, chunks)), len(x))
    features = torch.cat(chunks)
    return features.flatten(2).mean(2) if features.dim() > 2 else features


def exact_statistics(net: Net, x: Tensor, device: torch.device) -> State:
    """Return AdaBN's statistics of the body on inputs ``x`` by the net's names; {} for a model without running statistics."""
    batches = (to_inputs(x[rows], device) for rows in in_batches(torch.arange(len(x)), ROWS_AT_ONCE))
    return copy_state(
        {f"body.{name}": tensor for name, tensor in adabn_statistics(net.body, batches).items()}
    )


def fits_statistics(method: Method, partition: Partition, model: State, shared: State) -> bool:
    """
    Return whether a silo scores the ``model`` that it uses with exact statistics: where its statistics are the silo's own.
    They are not where all equal the ``shared`` ones that it received; those of a personal model or of a mixture are.
    """
    if method.exact_statistics != ExactStatistics.OWN:
        return method.exact_statistics == ExactStatistics.ALWAYS
    names = [name for name in model if partition.roles[name] is Role.STATS]
    return any(name not in shared or not torch.equal(model[name].cpu(), shared[name].cpu()) for name in names)
