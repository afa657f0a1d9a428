"""
What a site may send and what it may be asked for. Deny by default: anything that the policy does not list is refused.

The server learns one of the fixed codes below and nothing else; the reason is written to the site's own log. This module must not
depend on how an update is computed or sent.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from fedtl.errors import Denied

if TYPE_CHECKING:  # the SuperNode needs codes and hashes only, and does not import torch
    import torch

    from fedtl.messages import Task, Update
    from fedtl.methods.wire import Encoding
    from fedtl.models.roles import Partition
    from fedtl.models.state import State


TRANSFER = "transferability"  # in policy.metrics: numbers that say what transfers may leave
Limits = tuple[float, float]  # the lowest and the highest value


class Code(StrEnum):
    """The reason of a refusal, and all that the server learns about it."""

    DECLINED = "declined"  # budget, policy or anything about data; the server does not learn which
    PLAN = "plan"  # the bundle, plan or code is not the approved one
    ROUND = "round"  # an earlier round, or a second, different task for the same round
    TENSORS = "tensors"  # tensors that are not on the manifest
    HOURS = (
        "hours"  # not in the hours in which the site trains; a round and a verdict are asked for again later
    )
    FAILED = "failed"  # an error at the site; its own log has the details


MEANING = {
    Code.DECLINED: "refused this round (the reason is recorded at the site)",
    Code.PLAN: "has not approved this bundle or plan",
    Code.ROUND: "has already answered another task for this round, or a later round",
    Code.TENSORS: "was sent tensors that are not on its manifest",
    Code.HOURS: "does not train at this time of the day",
    Code.FAILED: "failed in this round (see the log at the site)",
}


@dataclass(frozen=True)
class ManifestTensor:
    """One line of a manifest."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """Every tensor that would leave the site each round, in order of names."""

    lines: tuple[ManifestTensor, ...]

    @property
    def bytes(self) -> int:
        return sum(line.bytes for line in self.lines)

    @property
    def hash(self) -> str:
        return sha256(json.dumps([asdict(line) for line in self.lines]).encode()).hexdigest()


@dataclass(frozen=True)
class Policy:
    """
    What may leave a site. ``max_update_norm``: the L2 norm of an update over all its tensors.
    ``minimum_silos``: the server must combine at least this many sites; fedtl at the site cannot verify that it does.
    ``private``: only updates with differential privacy may leave. ``share_row_count``: the number of training rows may
    leave as the update's weight. With differential privacy it never leaves, but it is public all the same: the guarantee is for a known
    number of rows, and the noise depends on it. ``wire``: in which forms the weights of an update may be sent. ``verdict``: after the last
    round one word may leave, which says whether joining helped; never of a site that trains with differential privacy.
    """

    roles: frozenset[str] = frozenset()
    methods: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    max_bytes_per_round: int = 0
    max_update_norm: float = 0.0
    minimum_silos: int = 2
    private: bool = True
    share_row_count: bool = False
    wire: frozenset[str] = frozenset({"float32"})
    verdict: bool = False


@dataclass(frozen=True)
class Terms:
    """
    What the approved plan fixes and a task must match. ``manifest``: the tensors that leave. ``received``: those of a task;
    None: the same ones. ``encoding``: how an update becomes the tensors that leave; None: it is sent in full. ``numbers``: by name,
    the limits of each number other than an ordinary metric that leaves with the update of the last round.
    """

    rounds: int
    seed: int
    manifest: Manifest
    received: Manifest | None = None
    encoding: "Encoding | None" = None
    numbers: "Mapping[str, Limits]" = field(default_factory=dict)


def allows_metric(allowed: Collection[str], name: str) -> bool:
    """
    Whether a policy that lists these metrics allows one to leave. "transferability" allows all numbers whose names begin with it and a
    slash.
    """
    return (TRANSFER if name.startswith(f"{TRANSFER}/") else name) in allowed


def make_manifest(partition: "Partition", state: "State", encoding: "Encoding | None" = None) -> Manifest:
    """
    The manifest of a model's whole state. Only names, shapes and types are read, so meta tensors will do. ``encoding``: how an
    update is sent; None: in full. A compressed tensor is on the manifest as the parts that are sent, each with the tensor's role.
    """
    from fedtl.methods.wire import Encoding

    encoding = encoding or Encoding()
    lines = [
        ManifestTensor(
            sent, str(partition.roles[name]), shape, _dtype(dtype), math.prod(shape) * dtype.itemsize
        )
        for name, tensor in state.items()
        if partition.leaves(name)
        for sent, (shape, dtype) in encoding.layout({name: tensor}).items()
    ]
    return Manifest(tuple(sorted(lines, key=lambda line: line.name)))


def check_manifest(manifest: Manifest, policy: Policy) -> None:
    """Raise Denied unless the policy allows every tensor on the manifest, and their size."""
    if not manifest.lines:
        raise Denied(Code.PLAN, "the method shares no tensors, so this site has nothing to send")
    for line in manifest.lines:
        if line.role not in policy.roles:
            allowed = ", ".join(sorted(policy.roles)) or "none"
            raise Denied(Code.PLAN, f"{line.name} has the role {line.role}; policy.roles allows {allowed}")
    if manifest.bytes > policy.max_bytes_per_round:
        raise Denied(
            Code.PLAN,
            f"{manifest.bytes:,} bytes per round; policy.max_bytes_per_round allows {policy.max_bytes_per_round:,}",
        )


def check_task(task: "Task", terms: Terms) -> None:
    """Raise Denied unless the task is of the approved plan: its rounds, its seed and the tensors of its manifest."""
    if not 1 <= task.round <= task.rounds or (task.rounds, task.seed) != (terms.rounds, terms.seed):
        raise Denied(
            Code.PLAN,
            f"round {task.round} of {task.rounds}, seed {task.seed}; the approved plan has {terms.rounds} rounds, seed {terms.seed}",
        )
    _check_tensors(task.shared, terms.received or terms.manifest, "the task has")


def check_update(
    update: "Update", task: "Task", terms: Terms, policy: Policy, released: frozenset[str] | None, silo: str
) -> None:
    """
    Raise Denied unless the update may leave. The last check before it does. ``released``: the metrics that are released
    with noise and charged to the ledger; None for an update without differential privacy. That the update itself was
    charged is checked against the ledger (``deployment.site.paid``).
    """
    from fedtl.models.state import euclidean_norm

    if update.silo != silo or update.round != task.round:
        raise Denied(
            Code.FAILED,
            f"the update is from silo {update.silo}, round {update.round}; the task was for silo {silo}, round {task.round}",
        )
    check_manifest(terms.manifest, policy)
    _check_tensors(update.delta, terms.manifest, "the update has")
    delta = _as_server_reads(update, task, terms)
    norm = euclidean_norm(delta)
    if norm > policy.max_update_norm:
        raise Denied(
            Code.DECLINED,
            f"the update has norm {norm:.4g}; policy.max_update_norm allows {policy.max_update_norm:.4g}",
        )
    if policy.private and released is None:
        raise Denied(
            Code.DECLINED, "[policy.privacy] requires differential privacy; the update was made without it"
        )
    if released is not None and update.weight != 1.0:
        raise Denied(
            Code.DECLINED,
            "a private update must have weight 1: another weight would reveal the number of rows",
        )
    if released is not None and (unnoised := sorted(set(update.metrics) - released)):
        raise Denied(Code.DECLINED, f"metrics: {unnoised[0]!r} has no noise, which a private update requires")
    if forbidden := sorted(name for name in update.metrics if not allows_metric(policy.metrics, name)):
        raise Denied(Code.DECLINED, f"policy.metrics does not allow {forbidden[0]!r}")
    if not all(math.isfinite(value) for value in update.metrics.values()):
        raise Denied(Code.DECLINED, "metrics: a value is not finite")
    _check_numbers(update, task, terms)
    if not policy.share_row_count and update.weight != 1.0:
        raise Denied(
            Code.DECLINED, "the update's weight is the number of rows; policy.share_row_count is false"
        )


def _check_numbers(update: "Update", task: "Task", terms: Terms) -> None:
    """Raise Denied unless each number other than an ordinary metric is one of the plan's, within its limits, and this is the last round."""
    for name, value in update.metrics.items():
        if "/" not in name:
            continue
        if name not in terms.numbers or task.round != task.rounds:
            raise Denied(Code.DECLINED, f"metrics: {name!r} must not leave in round {task.round}")
        low, high = terms.numbers[name]
        if not low <= value <= high:
            raise Denied(
                Code.DECLINED, f"metrics: {name!r} is {value:.6g}; its limits are {low:g} and {high:g}"
            )


def _as_server_reads(update: "Update", task: "Task", terms: Terms) -> "State":
    """Return the update as the server will read it."""
    if terms.encoding is None:
        return update.delta
    try:
        return terms.encoding.decode(update.delta, task.shared)
    except ValueError as error:
        raise Denied(Code.TENSORS, f"the update cannot be read: {error}") from error


def _check_tensors(state: "State", manifest: Manifest, subject: str) -> None:
    from fedtl.models.state import first_not_finite

    lines = {line.name: line for line in manifest.lines}
    if missing := sorted(lines.keys() - state.keys()):
        raise Denied(
            Code.TENSORS,
            f"{subject} no {missing[0]!r}, which is on the manifest ({len(missing)} such tensors)",
        )
    if extra := sorted(state.keys() - lines.keys()):
        raise Denied(
            Code.TENSORS, f"{subject} {extra[0]!r}, which is not on the manifest ({len(extra)} such tensors)"
        )
    for name, tensor in state.items():
        line = lines[name]
        if tuple(tensor.shape) != line.shape or _dtype(tensor.dtype) != line.dtype:
            raise Denied(
                Code.TENSORS,
                f"{subject} {name} as {list(tensor.shape)} {_dtype(tensor.dtype)}; the manifest has {list(line.shape)} {line.dtype}",
            )
    if broken := first_not_finite(state):
        raise Denied(Code.TENSORS, f"{subject} a value in {broken} that is not finite")


def _dtype(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")
