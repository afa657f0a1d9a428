"""Which updates and tasks a policy allows: one fault at a time, each refused with its own code."""

from dataclasses import replace

import pytest
import torch

from fedtl.errors import Denied
from fedtl.federation.policy import (
    Code,
    Policy,
    Terms,
    check_manifest,
    check_task,
    check_update,
    make_manifest,
)
from fedtl.messages import Task, Update
from fedtl.models.roles import Partition, Role

ROLES = {"body.w": Role.BODY, "body.n": Role.NORM, "head.w": Role.HEAD, "body.mean": Role.STATS}
STATE = {name: torch.ones(2, 3) for name in ROLES}
ITS = make_manifest(Partition(ROLES, frozenset({Role.BODY, Role.NORM})), STATE)
TERMS = Terms(5, 7, ITS)
OPEN = Policy(
    roles=frozenset({"body", "norm"}),
    metrics=frozenset({"accuracy"}),
    max_bytes_per_round=48,
    max_update_norm=10.0,
    private=False,
    share_row_count=True,
)
SHARED = {"body.w": torch.ones(2, 3), "body.n": torch.ones(2, 3)}
TASK = Task("study", 2, 5, 7, SHARED)
UPDATE = Update("here", 2, SHARED, 30.0, {"accuracy": 0.5})


def test_a_manifest_lists_what_leaves_and_nothing_else():
    assert [(line.name, line.role, line.shape, line.dtype, line.bytes) for line in ITS.lines] == [
        ("body.n", "norm", (2, 3), "float32", 24),
        ("body.w", "body", (2, 3), "float32", 24),
    ]
    assert ITS.bytes == 48
    other = make_manifest(Partition(ROLES, frozenset({Role.BODY})), STATE)
    assert other.hash != ITS.hash


def test_an_update_that_matches_the_manifest_may_leave():
    check_update(UPDATE, TASK, TERMS, OPEN, None, "here")


def denied(code, match, update=UPDATE, policy=OPEN, released=None):
    with pytest.raises(Denied, match=match) as caught:
        check_update(update, TASK, TERMS, policy, released, "here")
    assert caught.value.code == code
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("code", "match", "changes"),
    [
        (Code.TENSORS, "'head.w'", {"delta": {**SHARED, "head.w": torch.ones(2, 3)}}),
        (Code.TENSORS, "which is on", {"delta": {"body.w": torch.ones(2, 3)}}),
        (Code.TENSORS, "as \\[3, 3\\]", {"delta": {**SHARED, "body.w": torch.ones(3, 3)}}),
        (Code.TENSORS, "float64", {"delta": {**SHARED, "body.w": torch.ones(2, 3).double()}}),
        (Code.TENSORS, "not finite", {"delta": {**SHARED, "body.w": torch.full((2, 3), torch.nan)}}),
        (Code.DECLINED, "norm 24", {"delta": {**SHARED, "body.w": torch.full((2, 3), 10.0)}}),
        (Code.DECLINED, "'auc'", {"metrics": {"auc": 0.5}}),
        (Code.DECLINED, "not finite", {"metrics": {"accuracy": float("inf")}}),
        (Code.FAILED, "round 3", {"round": 3}),
        (Code.FAILED, "there, round 2", {"silo": "there"}),
    ],
)
def test_an_update_with_one_fault_is_denied(code, match, changes):
    denied(code, match, replace(UPDATE, **changes))


@pytest.mark.parametrize(
    ("code", "match", "changes"),
    [
        (Code.PLAN, "policy.roles allows body", {"roles": frozenset({"body"})}),
        (Code.PLAN, "allows none", {"roles": frozenset()}),
        (Code.PLAN, "max_bytes_per_round allows 47", {"max_bytes_per_round": 47}),
        (Code.DECLINED, "share_row_count", {"share_row_count": False}),
        (Code.DECLINED, "policy.privacy", {"private": True}),
    ],
)
def test_a_stricter_policy_refuses_the_same_update(code, match, changes):
    denied(code, match, policy=replace(OPEN, **changes))


def test_the_default_policy_refuses_everything():
    with pytest.raises(Denied):
        check_manifest(ITS, Policy())


NOISY = replace(UPDATE, weight=1.0, metrics={})
NONE = frozenset()


def test_a_private_update_carries_no_metric_without_noise_and_no_row_count():
    strict = replace(OPEN, private=True, share_row_count=False)
    check_update(NOISY, TASK, TERMS, strict, NONE, "here")
    denied(Code.DECLINED, "policy.privacy", NOISY, strict, None)
    denied(Code.DECLINED, "'accuracy' has no noise", replace(NOISY, metrics={"accuracy": 0.5}), OPEN, NONE)
    denied(Code.DECLINED, "weight 1", replace(NOISY, weight=2.0), OPEN, NONE)


def test_a_metric_with_noise_may_leave_where_the_policy_allows_it():
    told = replace(NOISY, metrics={"accuracy": 0.5})
    strict, promised = replace(OPEN, private=True, share_row_count=False), frozenset({"accuracy"})
    check_update(told, TASK, TERMS, strict, promised, "here")
    denied(Code.DECLINED, "has no noise", told, strict, NONE)
    denied(Code.DECLINED, "policy.metrics", told, replace(strict, metrics=NONE), promised)
    more = replace(told, metrics={"accuracy": 0.5, "loss": 1.0})
    denied(
        Code.DECLINED, "'loss' has no noise", more, replace(strict, metrics={"accuracy", "loss"}), promised
    )


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        (Code.PLAN, {"rounds": 6}),
        (Code.PLAN, {"seed": 8}),
        (Code.PLAN, {"round": 6}),
        (Code.PLAN, {"round": 0}),
        (Code.TENSORS, {"shared": {**SHARED, "head.w": torch.ones(2, 3)}}),
        (Code.TENSORS, {"shared": {**SHARED, "body.mean": torch.ones(2, 3)}}),
        (Code.TENSORS, {"shared": {"body.n": torch.ones(2, 3)}}),
        (Code.TENSORS, {"shared": {**SHARED, "body.w": torch.ones(20, 30)}}),
        (Code.TENSORS, {"shared": {**SHARED, "body.w": torch.full((2, 3), torch.inf)}}),
    ],
)
def test_a_task_that_differs_from_the_approved_plan_is_denied(code, changes):
    check_task(TASK, TERMS)
    with pytest.raises(Denied) as caught:
        check_task(replace(TASK, **changes), TERMS)
    assert caught.value.code == code
