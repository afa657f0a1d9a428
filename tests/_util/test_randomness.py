"""Randomness has an address: parts and key decide, and nothing else."""

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fedtl._util.randomness import address, numpy_generator, torch_generator

PARTS = st.lists(st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=8)), max_size=4).map(tuple)


@given(PARTS, PARTS)
def test_distinct_parts_have_distinct_addresses(a, b):
    assume(a != b)
    assert address(*a) != address(*b)


@given(PARTS)
def test_an_address_is_a_56_bit_number_and_does_not_change(parts):
    assert 0 <= address(*parts) < 2**56
    assert address(*parts) == address(*parts)


def test_parts_never_run_together():
    spellings = [
        ("ab", "c"),
        ("a", "bc"),
        ("a,b", "c"),
        ("a", "b,c"),
        (1, 23),
        (12, 3),
        ("1", 23),
        ("1", "23"),
    ]
    assert len({address(*parts) for parts in spellings}) == len(spellings)


def test_a_key_changes_everything():
    assert len({address("silos", 1, key=key) for key in (b"", b"a", b"b", b"ab")}) == 4
    a, b = (
        torch.randperm(100, generator=torch_generator(1, 2, key=b"a")),
        torch.randperm(100, generator=torch_generator(1, 2, key=b"b")),
    )
    assert not torch.equal(a, b)


def test_the_same_address_gives_the_same_numbers_and_leaves_the_global_generators_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = torch.rand(5, generator=torch_generator("x", 1))
    np_first = numpy_generator("x", 1).random(5)
    assert torch.equal(first, torch.rand(5, generator=torch_generator("x", 1)))
    assert np.array_equal(np_first, numpy_generator("x", 1).random(5))
    assert not torch.equal(first, torch.rand(5, generator=torch_generator("x", 2)))
    assert not np.array_equal(np_first, numpy_generator("x", 2).random(5))
    assert torch.equal(torch_before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


def test_the_addresses_are_the_same_in_every_process():
    """Python's own hash is another one in each. The first is what ``printf '[0, "silos", 7]' | b2sum -l 56`` prints."""
    assert address(0, "silos", 7) == 0x7B54A80FB6BFDA
    assert address(0, "silos", 7, key=b"k") == 0x443DE9FE794F59
