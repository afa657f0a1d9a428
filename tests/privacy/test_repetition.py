"""Compared with dp-accounting's own composition: equal bits, because a ledger is verified by computing again."""

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as library
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.privacy.repetition import Repetition


def _step(noise, rate, width, relation):
    return library.from_gaussian_mechanism(
        noise,
        value_discretization_interval=width,
        sampling_prob=rate,
        neighboring_relation=relation,
    )


def _check_that_both_are_equal(step, times):
    found, theirs = Repetition(step).self_compose(times), step.self_compose(times)
    assert found._symmetric == theirs._symmetric
    for ours, own in ((found._pmf_remove, theirs._pmf_remove), (found._pmf_add, theirs._pmf_add)):
        assert type(ours) is type(own)
        facts = [{**vars(one)} for one in (ours, own)]
        values = [one.pop("_probs", None) for one in facts]
        assert facts[0] == facts[1]
        assert np.array_equal(*values)
    for delta in (1e-3, 1e-9):
        assert found.get_epsilon_for_delta(delta) == theirs.get_epsilon_for_delta(delta)


@settings(max_examples=15, deadline=None)
@given(
    noise=st.floats(0.7, 40),
    rate=st.floats(0.01, 0.9),
    times=st.integers(1, 800),
    width=st.sampled_from([1e-3, 3e-3, 0.02]),
    relation=st.sampled_from([library.NeighborRel.REPLACE_SPECIAL, library.NeighborRel.REPLACE_ONE]),
)
def test_many_steps_are_those_of_the_library_to_the_bit(noise, rate, times, width, relation):
    _check_that_both_are_equal(_step(noise, rate, width, relation), times)


@pytest.mark.parametrize(
    ("noise", "rate", "width"),
    [(2.5, 0.25, 1e-3), (500.0, 0.01, 1e-3)],  # an array of losses, and a dictionary of few
)
@pytest.mark.parametrize("times", [1, 2, 300])
def test_both_ways_in_which_the_library_keeps_losses(noise, rate, width, times):
    step = _step(noise, rate, width, library.NeighborRel.REPLACE_SPECIAL)
    assert hasattr(step._pmf_remove, "_probs") == (noise < 100)
    _check_that_both_are_equal(step, times)


def test_a_step_is_prepared_once_for_all_numbers_of_steps():
    step = _step(3.0, 0.2, 1e-3, library.NeighborRel.REPLACE_SPECIAL)
    repetition = Repetition(step)
    for times in (5, 6, 500):
        assert repetition.self_compose(times).get_epsilon_for_delta(1e-5) == step.self_compose(
            times
        ).get_epsilon_for_delta(1e-5)
