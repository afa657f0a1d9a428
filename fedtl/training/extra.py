"""
What a method keeps or sends in addition to the model: its initial slots and summaries, and their values after a round.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedtl.data.dataset import SiloDataset
from fedtl.messages import Task
from fedtl.methods.base import Method, trains_on_all_rows
from fedtl.methods.losses import Batch, Forward
from fedtl.methods.sets import MODEL, RESIDUAL, SUMMARY, as_part, set_of
from fedtl.methods.slot import FinishedRound
from fedtl.methods.summary import Summary
from fedtl.models.roles import Partition, Role
from fedtl.models.state import State
from fedtl.training.batches import ROWS_AT_ONCE, make_batch
from fedtl.training.loop import Loop
from fedtl.training.public_rows import public_vectors
from fedtl.training.weights import Weights, copied

NUMBERS_AT_ONCE = 1 << 22  # of the vectors of a summary that are held at a time


def first_extra(
    method: Method, model: State, roles: Mapping[str, Role], sizes: tuple[int, int], public: Tensor | None
) -> State:
    """
    Return the initial slots of a model with these initial tensors, and the initial summaries, which are zeros. ``sizes``: the
    numbers of features and of outputs; ``public``: inputs that all may see.
    """
    extra = State()
    for slot in method.slots:
        extra |= as_part(slot.name, slot.first(model, roles))
    for summary in method.summaries:
        rows = (0 if public is None else len(public),) if summary.on_public else ()
        extra[f"{SUMMARY}/{summary.name}"] = torch.zeros((*rows, *summary.shape(*sizes)))
    return extra


def partition_of(
    method: Method, model: Mapping[str, Role], extra: State, kept: frozenset[str] = frozenset()
) -> Partition:
    """
    Return which tensors of the model, the slots and the summaries leave. These stay: counts, because they cannot be averaged, and the
    tensors ``kept`` by a cut or because they are frozen, also in the slots.
    """
    roles = {name: Role.SUMMARY if set_of(name) == SUMMARY else Role.EXTRA for name in extra}
    leaving = {slot.name for slot in method.slots if slot.crosses} | {SUMMARY}
    crossing = frozenset(
        name
        for name, one in extra.items()
        if set_of(name) in leaving and one.is_floating_point() and name.partition("/")[2] not in kept
    )
    return Partition({**model, **roles}, method.shared, crossing, kept)


def changed_extra(method: Method, partition: Partition) -> list[str]:
    """Return the names of the slots' tensors that a round may change, residuals included, and of the summaries."""
    moved = {name for phase in method.phases for name in (*phase.on, phase.into) if name is not None}
    changed = {slot.name for slot in method.slots if slot.after or slot.name in moved} | {RESIDUAL, SUMMARY}
    return [name for name in partition.roles if set_of(name) in changed]


def before_round(method: Method, weights: Weights) -> dict[str, State]:
    """Return copies of all sets, or {} if no slot's ``after`` needs them when the round ends."""
    if not any(slot.after for slot in method.slots):
        return {}
    return {name: copied(tensors) for name, tensors in weights.sets.items()}


def end_slots(
    loop: Loop, weights: Weights, before: Mapping[str, State], task: Task, steps: Sequence[int]
) -> None:
    """Set each slot to its value after the round, in order. ``steps``: the number that each phase took which trained the model."""
    if not before:
        return
    reach = {
        name: sum(loop.training.reach(name, task, count) for count in steps)
        for name, _ in weights.net.named_parameters(remove_duplicate=False)
    }
    for slot in loop.method.slots:
        if slot.after is not None:
            weights.put(slot.name, copied(slot.after(FinishedRound(before, weights.sets, reach))))


def uses_exact_statistics(method: Method) -> bool:
    """Return whether the method has a summary of the model with exact statistics."""
    return method.fits_received_statistics and any(one.exact_statistics for one in method.summaries)


def summaries_of(
    loop: Loop,
    weights: Weights,
    data: SiloDataset,
    exact: State | None = None,
    public: Tensor | None = None,
) -> State:
    """
    Return each summary of the model as trained: the sum of its vectors over the silo's training rows, divided by the weight of the
    silo's update, so that the weighted mean over silos is the mean over all rows where all have labels. Vectors that are too long are
    scaled down. Rows without labels count where the summary is not ``by_label``. ``exact``: the exact statistics for summaries that ask
    for them; None where the silo does not use these. ``public``: inputs that all may see.
    """
    means: State = {}
    for summary in loop.method.summaries:
        if summary.on_public:
            means[summary.name] = public_vectors(summary, weights, data, public, exact)
        else:
            total = _sum_of_rows(summary, loop, weights, data, exact)
            means[summary.name] = (
                total / max(1, data.rows_in_epoch(trains_on_all_rows(loop.method)))
            ).float()
    return means


def _sum_of_rows(
    summary: Summary, loop: Loop, weights: Weights, data: SiloDataset, exact: State | None
) -> Tensor:
    """Return the sum of a summary's vectors over the silo's training rows, float64."""
    parts = (
        _scaled_down(part, summary.bound).sum(0) for part in vectors_of(summary, loop, weights, data, exact)
    )
    total = next(parts, torch.zeros_like(weights.summaries[summary.name], dtype=torch.float64))
    for part in parts:
        total += part
    return total


def _row_count(summary: Summary, data: SiloDataset) -> int:
    """Return the number of rows over which a summary is averaged."""
    return len(data.train) if summary.by_label else len(data.train) + data.hidden


@torch.no_grad()
def vectors_of(
    summary: Summary, loop: Loop, weights: Weights, data: SiloDataset, exact: State | None = None
) -> Iterator[Tensor]:
    """
    Yield a summary's vectors of the silo's training rows in order, float64 [B, ...]; then, where it is not ``by_label``, of
    its rows without labels.
    """
    if exact is not None and summary.exact_statistics:
        moved = {name: tensor.to(loop.device) for name, tensor in exact.items()}
        weights = replace(weights, sets={**weights.sets, MODEL: {**weights.sets[MODEL], **moved}})
    at_once = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // weights.summaries[summary.name].numel()))
    labelled, hidden = len(data.train), _row_count(summary, data) - len(data.train)
    none = torch.arange(0)
    batches = [(rows, none) for rows in torch.arange(labelled).split(at_once) if len(rows)]
    batches += [(none, rows) for rows in torch.arange(hidden).split(at_once) if len(rows)]
    for rows, target_rows in batches:
        batch = make_batch(data, rows, target_rows if len(target_rows) else None, loop.device)
        yield summary_rows(summary, weights, batch).double()


def summary_rows(summary: Summary, weights: Weights, batch: Batch) -> Tensor:
    """Return a summary's vectors [B, ...] of a batch, by the model as trained."""
    model = replace(weights.by(MODEL), layers=summary.needs_layers)
    return summary.rows(Forward(batch, model, 1.0, weights.summaries))


def _scaled_down(vectors: Tensor, bound: float) -> Tensor:
    """Scale each vector [B, ...] down to a length of at most ``bound``."""
    length = vectors.flatten(1).norm(dim=1).clamp_min(1e-12)
    return vectors * (bound / length).clamp(max=1).view(-1, *[1] * (vectors.dim() - 1))


def whole_state(method: Method, weights: Weights, summaries: State) -> State:
    """Return the model, the slots and the summaries by their names in a state."""
    state = dict(weights.sets[MODEL])
    for slot in method.slots:
        state |= as_part(slot.name, weights.sets[slot.name])
    return state | as_part(SUMMARY, summaries)
