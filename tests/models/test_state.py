"""Arithmetic on states, against numpy and against laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.errors import PartitionError
from fedtl.models.state import (
    NORM_BLOCK,
    add_scaled,
    check_same_names,
    copy_state,
    difference,
    euclidean_norm,
    first_not_finite,
    size_in_bytes,
    weighted_mean,
)


def random_state(seed, names=("b", "a", "c.weight")):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, 3, generator=generator) for name in names}


def test_missing_and_unexpected_names_are_listed():
    check_same_names({"a": torch.zeros(1), "b": torch.zeros(1)}, {"b": torch.ones(1), "a": torch.ones(1)})
    with pytest.raises(PartitionError, match=r"\['b'\], unexpected \['c'\]"):
        check_same_names(
            {"a": torch.zeros(1), "c": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)}
        )


def test_a_copy_is_detached_and_contiguous():
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)  # not contiguous
    copied = copy_state({"z": weight, "a": torch.ones(2)})
    assert list(copied) == ["a", "z"]
    assert not copied["z"].requires_grad
    assert copied["z"].is_contiguous()
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(copied["z"], torch.arange(6.0).reshape(2, 3).T)


def test_copy_shares_no_memory():
    state = {"a": torch.zeros(3), "count": torch.tensor(0)}
    copied = copy_state(state)
    for tensor in state.values():
        tensor.add_(1)
    assert torch.equal(copied["a"], torch.zeros(3))
    assert int(copied["count"]) == 0


def test_difference_undoes_step_and_checks_names():
    a, b = random_state(0), random_state(1)
    moved = add_scaled(b, difference(a, b))
    assert list(moved) == sorted(a)
    for name in a:
        assert torch.allclose(moved[name], a[name], atol=1e-6)
    half = add_scaled(b, difference(a, b), 0.5)
    for name in a:
        np.testing.assert_allclose(
            half[name], b[name].numpy() + 0.5 * (a[name].numpy() - b[name].numpy()), atol=1e-6
        )
    for operation in (difference, add_scaled):
        with pytest.raises(PartitionError):
            operation(a, {"a": torch.zeros(2, 3)})
        with pytest.raises(PartitionError):
            operation({"a": torch.zeros(2, 3)}, a)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=6))
def test_weighted_mean_is_numpys_average(weights):
    states = [random_state(seed) for seed in range(len(weights))]
    mean = weighted_mean(zip(weights, states, strict=True))
    for name in states[0]:
        stacked = np.stack([state[name].double().numpy() for state in states])
        np.testing.assert_allclose(mean[name], np.average(stacked, axis=0, weights=weights), atol=1e-5)


def test_weighted_mean_does_not_change_its_parts_and_takes_an_iterator():
    states = [random_state(0), random_state(1)]
    before = [copy_state(state) for state in states]
    mean = weighted_mean((1.0, state) for state in states)
    mean["a"].add_(1)
    for state, old in zip(states, before, strict=True):
        assert all(torch.equal(state[name], old[name]) for name in old)


def test_weighted_mean_of_different_names_is_refused():
    with pytest.raises(PartitionError):
        weighted_mean([(1.0, random_state(0)), (1.0, random_state(1, ("a", "b")))])


def test_weighted_mean_of_empty_states_is_empty():
    assert weighted_mean([(3.0, {}), (1.0, {})]) == {}


def test_size_in_bytes():
    state = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.float64), "c": torch.tensor(1)}
    assert size_in_bytes(state) == 15 * 4 + 7 * 8 + 8
    assert size_in_bytes({}) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_names_the_tensor(bad):
    state = {"count": torch.tensor(3), "fine": torch.ones(3), "broken": torch.tensor([1.0, bad])}
    assert first_not_finite(state) == "broken"
    del state["broken"]
    assert first_not_finite(state) is None


def test_large_numbers_whose_sum_overflows_are_finite():
    largest = torch.full((4,), torch.finfo(torch.float32).max)
    assert first_not_finite({"a": largest, "b": torch.full((2,), 1e300, dtype=torch.float64)}) is None
    assert first_not_finite({"a": largest, "b": torch.tensor([1.0, float("nan")])}) == "b"
    assert first_not_finite({"a": torch.tensor([float("inf"), float("-inf")])}) == "a"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_the_norm_is_numpys_over_all_tensors(dtype):
    drawn = (torch.randn(1000, generator=torch.Generator().manual_seed(3)) * 40).to(dtype)
    state = {"a": drawn[:7], "b": drawn[7:].reshape(331, 3), "none": drawn[:0]}
    exact = np.linalg.norm(drawn.double().numpy().astype(np.longdouble))
    assert euclidean_norm(state) == pytest.approx(float(exact), rel=1e-12)
    assert euclidean_norm({}) == 0


def test_the_norm_of_large_values_does_not_overflow():
    large = {
        name: torch.tensor([value], dtype=torch.float64) for name, value in {"a": 3e200, "b": 4e200}.items()
    }
    assert euclidean_norm(large) == pytest.approx(5e200)
    assert np.isnan(euclidean_norm({"a": torch.tensor([float("nan")])}))


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e25])
def test_the_norm_of_a_large_tensor_is_numpys_at_every_scale(scale):
    drawn = torch.randn(3 * NORM_BLOCK + 17, generator=torch.Generator().manual_seed(4)) * scale
    exact = np.linalg.norm(drawn.double().numpy())
    assert euclidean_norm({"a": drawn}) == pytest.approx(float(exact), rel=2e-6)
    drawn[5] = float("inf")
    assert euclidean_norm({"a": drawn}) == np.inf
