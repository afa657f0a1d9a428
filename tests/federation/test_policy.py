"""What the verdict lets out: one thing wrong at a time, each refused by its own code."""

from dataclasses import replace

import pytest
import torch

from fedtl.errors import Denied
from fedtl.federation.policy import Code, Policy, Terms, check_manifest, check_task, manifest, verdict
from fedtl.messages import Task, Update
from fedtl.models.roles import Partition, Role

ROLES = {"body.w": Role.BODY, "body.n": Role.NORM, "head.w": Role.HEAD, "body.mean": Role.STATS}
STATE = {name: torch.ones(2, 3) for name in ROLES}
ITS = manifest(Partition(ROLES, frozenset({Role.BODY, Role.NORM})), STATE)
TERMS = Terms(5, 7, ITS)
OPEN = Policy(
    roles=frozenset({"body", "norm"}),
    metrics=frozenset({"accuracy"}),
    bytes=48,
    norm=10.0,
    private=False,
    rows=True,
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
    other = manifest(Partition(ROLES, frozenset({Role.BODY})), STATE)
    assert other.hash != ITS.hash


def test_what_is_on_the_manifest_may_leave():
    verdict(UPDATE, TASK, TERMS, OPEN, None, "here")


def denied(code, match, update=UPDATE, policy=OPEN, released=None):
    with pytest.raises(Denied, match=match) as caught:
        verdict(update, TASK, TERMS, policy, released, "here")
    assert caught.value.code == code
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("code", "match", "changes"),
    [
        (Code.TENSORS, "'head.w'", {"delta": {**SHARED, "head.w": torch.ones(2, 3)}}),
        (Code.TENSORS, "missing", {"delta": {"body.w": torch.ones(2, 3)}}),
        (Code.TENSORS, "shape|as \\[3, 3\\]", {"delta": {**SHARED, "body.w": torch.ones(3, 3)}}),
        (Code.TENSORS, "float64", {"delta": {**SHARED, "body.w": torch.ones(2, 3).double()}}),
        (Code.TENSORS, "not finite", {"delta": {**SHARED, "body.w": torch.full((2, 3), torch.nan)}}),
        (Code.DECLINED, "norm 24", {"delta": {**SHARED, "body.w": torch.full((2, 3), 10.0)}}),
        (Code.DECLINED, "'auc'", {"metrics": {"auc": 0.5}}),
        (Code.DECLINED, "metric is not finite", {"metrics": {"accuracy": float("inf")}}),
        (Code.FAILED, "round 3", {"round": 3}),
        (Code.FAILED, "of there", {"silo": "there"}),
    ],
)
def test_one_thing_wrong_and_nothing_leaves(code, match, changes):
    denied(code, match, replace(UPDATE, **changes))


@pytest.mark.parametrize(
    ("code", "match", "changes"),
    [
        (Code.PLAN, "body.n is norm; policy.roles allows body", {"roles": frozenset({"body"})}),
        (Code.PLAN, "allows none", {"roles": frozenset()}),
        (Code.PLAN, "48 bytes a round; policy.bytes allows 47", {"bytes": 47}),
        (Code.DECLINED, "number of rows", {"rows": False}),
        (Code.DECLINED, "asks for differential privacy", {"private": True}),
    ],
)
def test_a_stricter_policy_refuses_the_same_update(code, match, changes):
    denied(code, match, policy=replace(OPEN, **changes))


def test_the_policy_of_a_home_without_settings_refuses_everything():
    with pytest.raises(Denied):
        check_manifest(ITS, Policy())


NOISY = replace(UPDATE, weight=1.0, metrics={})
NONE = frozenset()


def test_a_private_update_was_made_under_a_promise_and_carries_no_figure():
    strict = replace(OPEN, private=True, rows=False)
    verdict(NOISY, TASK, TERMS, strict, NONE, "here")
    denied(Code.DECLINED, "has none", NOISY, strict, None)
    denied(Code.DECLINED, "'accuracy' is not one that", replace(NOISY, metrics={"accuracy": 0.5}), OPEN, NONE)
    denied(Code.DECLINED, "a number of rows", replace(NOISY, weight=2.0), OPEN, NONE)


def test_a_figure_leaves_with_noise_where_it_was_promised_and_the_policy_lets_it_out():
    told = replace(NOISY, metrics={"accuracy": 0.5})
    strict, promised = replace(OPEN, private=True, rows=False), frozenset({"accuracy"})
    verdict(told, TASK, TERMS, strict, promised, "here")
    denied(Code.DECLINED, "not one that the promise", told, strict, NONE)
    denied(Code.DECLINED, "among policy.metrics", told, replace(strict, metrics=NONE), promised)
    more = replace(told, metrics={"accuracy": 0.5, "loss": 1.0})
    denied(
        Code.DECLINED, "'loss' is not one that", more, replace(strict, metrics={"accuracy", "loss"}), promised
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
def test_a_server_gets_what_was_agreed_or_nothing(code, changes):
    check_task(TASK, TERMS)
    with pytest.raises(Denied) as caught:
        check_task(replace(TASK, **changes), TERMS)
    assert caught.value.code == code
