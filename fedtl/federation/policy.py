"""
What an institution lets out, and what it lets itself be asked for. Deny by default: what no list names is refused.

The server learns one of the fixed codes below and nothing else; why is for the institution's own record. Must not
know how an update is made, nor how it travels.
"""

import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from fedtl.errors import Denied

if TYPE_CHECKING:  # the SuperNode asks for codes and hashes only, and does without torch
    from torch import Tensor

    from fedtl.messages import Task, Update
    from fedtl.models.roles import Partition
    from fedtl.models.state import State


class Code(StrEnum):
    """All that a server is ever told about a refusal."""

    DECLINED = "declined"  # budget, policy, anything about data: which of them it was stays at home
    PLAN = "plan"  # not the bundle, plan or code that was approved
    ROUND = "round"  # an older round, or another task for the same one
    TENSORS = "tensors"  # asked for, or was sent, what is not on the manifest
    FAILED = "failed"  # the silo could not do it; its own log says why


MEANING = {
    Code.DECLINED: "does not take part; its steward knows why",
    Code.PLAN: "has not approved this bundle or plan",
    Code.ROUND: "knows another task for this round, or a later round",
    Code.TENSORS: "was sent tensors that are not on its manifest",
    Code.FAILED: "could not do this round; its own log says why",
}


@dataclass(frozen=True)
class ManifestTensor:
    """One tensor on the manifest."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """Every tensor that would leave each round, in the order of names."""

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
    ``bytes``: the most that may leave in a round. ``norm``: of the whole update, the most. ``minimum_silos``: fewer
    than that are not asked to be aggregated; that they are is the server's word. ``private``: nothing leaves without
    differential privacy. ``rows``: the number of training rows may leave as the weight. Under differential privacy it never
    does, and is public all the same: the claim is for a known number, which the size of the noise gives away.
    """

    roles: frozenset[str] = frozenset()
    methods: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    bytes: int = 0
    norm: float = 0.0
    minimum_silos: int = 2
    private: bool = True
    rows: bool = False


@dataclass(frozen=True)
class Terms:
    """What was agreed beforehand and a task may not change."""

    rounds: int
    seed: int
    manifest: Manifest


def manifest(partition: "Partition", state: "State") -> Manifest:
    """Of a model's whole state, on no device's memory: shapes are all that is read."""
    from fedtl.models.state import size_in_bytes

    return Manifest(
        tuple(
            ManifestTensor(
                name, str(partition.roles[name]), tuple(its.shape), _dtype(its), size_in_bytes({name: its})
            )
            for name, its in sorted(state.items())
            if partition.leaves(name)
        )
    )


def check_manifest(its: Manifest, policy: Policy) -> None:
    """Whether such a plan could ever be allowed. Raises Denied."""
    if not its.lines:
        raise Denied(Code.PLAN, "nothing would leave: there is nothing to take part in")
    for line in its.lines:
        if line.role not in policy.roles:
            allowed = ", ".join(sorted(policy.roles)) or "none"
            raise Denied(Code.PLAN, f"{line.name} is {line.role}; policy.roles allows {allowed}")
    if its.bytes > policy.bytes:
        raise Denied(Code.PLAN, f"{its.bytes:,} bytes a round; policy.bytes allows {policy.bytes:,}")


def check_task(task: "Task", terms: Terms) -> None:
    """Whether a task asks for what was agreed, no more and no other. Raises Denied."""
    if not 1 <= task.round <= task.rounds or (task.rounds, task.seed) != (terms.rounds, terms.seed):
        raise Denied(
            Code.PLAN,
            f"round {task.round} of {task.rounds}, seed {task.seed}; agreed are {terms.rounds} rounds and seed {terms.seed}",
        )
    _check_tensors(task.shared, terms.manifest, "was sent")


def verdict(
    update: "Update", task: "Task", terms: Terms, policy: Policy, released: frozenset[str] | None, silo: str
) -> None:
    """
    The last word on an update before it leaves. ``released``: the metrics that the promise it was made under releases
    with noise, and charges; None: it was made under no promise. That it was charged is the ledger's to say
    (``home.paid``). Raises Denied.
    """
    if update.silo != silo or update.round != task.round:
        raise Denied(Code.FAILED, f"an update of {update.silo}, round {update.round}, for round {task.round}")
    check_manifest(terms.manifest, policy)
    _check_tensors(update.delta, terms.manifest, "would send")
    norm = math.sqrt(sum(float(its.double().square().sum()) for its in update.delta.values()))
    if norm > policy.norm:
        raise Denied(Code.DECLINED, f"the update has norm {norm:.4g}; policy.norm allows {policy.norm:.4g}")
    if policy.private and released is None:
        raise Denied(Code.DECLINED, "the policy asks for differential privacy, and the update has none")
    if released is not None and update.weight != 1.0:
        raise Denied(Code.DECLINED, "a private update would carry a number of rows")
    if released is not None and (bare := sorted(set(update.metrics) - released)):
        raise Denied(Code.DECLINED, f"the metric {bare[0]!r} is not one that the promise releases with noise")
    if odd := sorted(set(update.metrics) - policy.metrics):
        raise Denied(Code.DECLINED, f"the metric {odd[0]!r} is not among policy.metrics")
    if not all(math.isfinite(value) for value in update.metrics.values()):
        raise Denied(Code.DECLINED, "a metric is not finite")
    if not policy.rows and update.weight != 1.0:
        raise Denied(Code.DECLINED, "the number of rows would leave as a weight; policy.rows is false")


def _check_tensors(found: "State", manifest: Manifest, what: str) -> None:
    from fedtl.models.state import first_not_finite

    wanted = {line.name: line for line in manifest.lines}
    if odd := sorted(found.keys() ^ wanted.keys()):
        side = "not on the manifest" if odd[0] in found else "missing"
        raise Denied(Code.TENSORS, f"{what} {odd[0]!r}, which is {side} ({len(odd)} such)")
    for name, its in found.items():
        line = wanted[name]
        if tuple(its.shape) != line.shape or _dtype(its) != line.dtype:
            raise Denied(
                Code.TENSORS,
                f"{what} {name} as {list(its.shape)} {_dtype(its)}; the manifest has {list(line.shape)} {line.dtype}",
            )
    if broken := first_not_finite(found):
        raise Denied(Code.TENSORS, f"{what} {broken}, which is not finite")


def _dtype(tensor: "Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")
