"""Batches: which rows a step of training sees, and how they reach the model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedtl._util.labels import NO_LABEL, without_labels
from fedtl.data.dataset import SiloDataset
from fedtl.methods.losses import Batch, Term, losses_among

ROWS_AT_ONCE = 256  # batch size of evaluation; fixed, so that results do not depend on a setting
MAX_SHARE_OF_GPU = (
    0.25  # of a GPU's memory: larger training rows stay in main memory, and each batch is copied
)


def to_inputs(x: Tensor, device: torch.device) -> Tensor:
    """Return rows as a net takes them: floats on the device, pixels as -1..1, images in the fast memory format."""
    x = x.to(device, non_blocking=True)
    if x.dtype == torch.uint8:
        x = x.float().div_(127.5).sub_(1)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def on_device(data: SiloDataset, device: torch.device) -> SiloDataset:
    """
    Return the silo's data with its training rows and its second domain on a GPU, so that no step waits for a copy; as they are on a
    CPU, and where they would take more than ``MAX_SHARE_OF_GPU`` of the GPU's memory.
    """
    train, target = data.train, data.target
    if device.type != "cuda" or not isinstance(train.x, Tensor) or not fit_on(device, train.x, target):
        return data
    moved = replace(train, x=train.x.to(device), y=train.y.to(device))
    return replace(data, train=moved, target=None if target is None else target.to(device))


def fit_on(device: torch.device, *tensors: Tensor | None) -> bool:
    """Return whether tensors take at most ``MAX_SHARE_OF_GPU`` of a GPU's memory together."""
    size = sum(one.numel() * one.element_size() for one in tensors if one is not None)
    return size <= MAX_SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory


def make_batch(
    data: SiloDataset,
    rows: Tensor,
    target_rows: Tensor | None,
    device: torch.device,
    change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Batch:
    """
    Return the batch of these rows of the silo, and of these of its second domain; values of regression are scaled. ``change``:
    returns changed inputs and masks from inputs, labels and row numbers; rows of the second domain are numbered after the others.

    Copies from main memory do not wait for the GPU. CUDA reads pageable memory before such a copy returns.
    """
    rows = rows.to(data.train.x.device, non_blocking=True)
    x, y = data.train.x[rows], data.scaled(data.train.y[rows])
    domain, numbers = torch.zeros(len(rows), device=x.device), rows
    if target_rows is not None and data.target is not None:
        target_rows = target_rows.to(x.device, non_blocking=True)
        x = torch.cat([x, data.target[target_rows]])
        y = torch.cat([y, without_labels(len(target_rows), y)])
        domain = torch.cat([domain, torch.ones(len(target_rows), device=x.device)])
        numbers = torch.cat([rows, torch.full_like(target_rows, -1)])
    if change is not None:
        others = [] if target_rows is None else [target_rows + len(data.train)]
        x, y = change(x, y, torch.cat([rows, *others]))
    x, y, domain, numbers = (one.to(device, non_blocking=True) for one in (x, y, domain, numbers))
    return Batch(to_inputs(x, device), y, domain, numbers, data.task)


def learns_from(terms: Sequence[Term], data: SiloDataset) -> bool:
    """Return whether one of the losses is defined on rows of the silo."""
    source_free = any(term.source_free for term in losses_among(terms))
    return data.has_labels or (source_free and data.target is not None and len(data.target) > 0)


def draw_batches(
    data: SiloDataset,
    epochs: int,
    size: int,
    generator: torch.Generator,
    second_domain: bool,
    all_rows: bool = False,
    balanced_by: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """
    Yield each batch's rows and, with ``second_domain``, the same number of rows of the silo's second domain; otherwise None. A
    silo without labels yields all its rows of the second domain instead. ``all_rows``: an epoch is one pass over the rows of both.
    ``balanced_by``: the class of each labelled row; an epoch then draws from them with replacement, each class equally often.
    """
    pool = len(data.target) if data.target is not None and (second_domain or all_rows) else 0
    labelled = len(data.train)
    count = labelled + pool if all_rows else labelled or pool
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        if balanced_by is not None and labelled:
            order = torch.where(
                order < labelled, balanced_rows(balanced_by, generator)[order.clamp(max=labelled - 1)], order
            )
        for rows in in_batches(order, size):
            if all_rows:
                yield rows[rows < labelled], rows[rows >= labelled] - labelled
            elif labelled:
                yield rows, torch.randint(pool, (len(rows),), generator=generator) if pool else None
            else:
                yield rows[:0], rows


def balanced_rows(classes: Tensor, generator: torch.Generator) -> Tensor:
    """
    Return the numbers [N] of N rows, drawn with replacement: first a class, all that occur with equal probability, then one of its
    rows. Rows without a label are not drawn, unless no row has one.
    """
    known = torch.nonzero(classes != NO_LABEL).flatten()
    if not len(known):
        return torch.randperm(len(classes), generator=generator)
    _, which, counts = classes[known].unique(return_inverse=True, return_counts=True)
    weights = 1 / counts[which].double()
    return known[torch.multinomial(weights, len(classes), replacement=True, generator=generator)]


def in_batches(rows: Tensor, size: int) -> list[Tensor]:
    """Split rows in order; a last batch of one row joins the one before, because BatchNorm needs two rows."""
    parts = list(rows.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
