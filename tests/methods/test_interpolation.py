"""The best model between two, against a scan in numpy."""

import numpy as np
import pytest
import torch

from fedtl.methods.candidate import Candidate
from fedtl.methods.choose import Choose
from fedtl.methods.interpolation import POINTS, Interpolation, best_between, between

GROUPS = (frozenset("ab"), frozenset("c"))
U = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor(0.0), "c": torch.tensor(4.0), "n": torch.tensor(1)}
V = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0), "c": torch.tensor(8.0), "n": torch.tensor(5)}


def bowl(a, c):
    """Losses of four rows, lowest where the two groups have the shares ``a`` and ``c``."""

    def losses(state):
        where = torch.stack([state["a"][0], (state["c"] - 4) / 4])
        return ((where - torch.tensor([a, c])) ** 2).sum() + torch.tensor([0.1, 0.2, 0.3, 0.4])

    return losses


def test_between_is_the_weighted_mean_of_each_group_and_integers_are_the_second_s():
    state = between(U, V, GROUPS, (0.25, 1.0))
    assert state["a"].tolist() == [0.25, 0.5]
    assert (float(state["b"]), float(state["c"]), int(state["n"])) == (0.75, 8.0, 5)


def test_one_share_is_the_lowest_of_the_curve():
    best = best_between(U, V, GROUPS, False, bowl(0.2, 0.8))
    grid = np.linspace(0, 1, POINTS)
    curve = (grid - 0.2) ** 2 + (grid - 0.8) ** 2 + 0.25
    np.testing.assert_allclose(best.curve, curve, rtol=1e-6)
    assert best.shares == pytest.approx([0.5, 0.5])
    assert all(torch.equal(best.state[name], between(U, V, GROUPS, best.shares)[name]) for name in V)


def test_by_stage_each_group_finds_its_own_share():
    assert best_between(U, V, GROUPS, True, bowl(0.2, 0.8)).shares == pytest.approx([0.2, 0.8])


def test_without_rows_or_finite_losses_it_is_the_second_model_and_never_a_broken_one():
    assert best_between(U, V, GROUPS, True, lambda _: torch.empty(0)).shares == (1.0, 1.0)
    assert best_between(U, V, GROUPS, False, lambda _: torch.full((3,), torch.nan)).shares == (1.0, 1.0)
    high = best_between(U, V, GROUPS, False, lambda s: torch.tensor([torch.nan if s["b"] > 1 else 1.0]))
    assert high.shares[0] == pytest.approx(0.3)


def test_what_it_may_lie_between():
    with pytest.raises(ValueError, match="two different"):
        Interpolation((Candidate.OWN, Candidate.OWN))
    with pytest.raises(ValueError, match="two different"):
        Interpolation((Candidate.INTERPOLATED, Candidate.OWN))
    needs = Choose((Candidate.INTERPOLATED,), Interpolation((Candidate.SHARED, Candidate.OWN)))
    assert needs.needs_own
    assert not Choose((Candidate.INTERPOLATED,)).needs_own
