"""The learning rates of tuning, and how many epochs are kept, against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtl.methods.tune import Tune, epochs_to_keep
from fedtl.models.roles import Role


class Ground:
    """A silo that keeps what was asked of it; the model's only weight counts the epochs."""

    lr = 0.1

    def __init__(self, losses, training=None):
        self.asked, self.by_epoch = [], {"val": losses, "train": training}

    def train(self, state, phase, lr=None, repeat=0):
        self.asked.append((phase.train, phase.epochs, lr, repeat))
        return {"epochs": state["epochs"] + 1}

    def adapted(self, state, moved):
        assert Role.STATS in moved
        return state

    def losses(self, state, rows="val"):
        return self.by_epoch[rows][int(state["epochs"])]


def tuned(step, losses, training=None):
    ground = Ground(losses, training)
    return int(step(ground, {"epochs": torch.zeros(())}, {})["epochs"]), ground.asked


def test_each_epoch_has_its_rate_and_draws_batches_of_its_own():
    falling = [torch.tensor([3.0 - epoch, 4.0 - epoch]) for epoch in range(4)]
    kept, asked = tuned(Tune(epochs=3), falling)
    assert kept == 3
    np.testing.assert_allclose(
        [lr for _, _, lr, _ in asked], 0.05 * (1 + np.cos(np.pi * np.arange(3) / 3)) / 2
    )
    assert [repeat for *_, repeat in asked] == [0, 1, 2]
    assert {(roles, epochs) for roles, epochs, *_ in asked} == {(Tune().trained, 1)}
    _, asked = tuned(Tune(epochs=2, lr=0.3, schedule="constant"), falling)
    assert [lr for _, _, lr, _ in asked] == [0.3, 0.3]


def test_what_is_trained():
    assert Tune("head", 1).trained == {Role.HEAD}
    assert Tune("norm", 1).trained == {Role.NORM, Role.STATS}
    assert Tune("all", 0).trained == frozenset()


def test_an_earlier_epoch_is_kept_only_if_it_is_clearly_better():
    noise = np.random.default_rng(0).normal(0, 1, 200)
    rising = [torch.from_numpy(noise + 0.5 * epoch) for epoch in range(5)]
    assert tuned(Tune(epochs=4), rising)[0] == 0
    crossed = [
        torch.from_numpy(noise * (1 + epoch)) for epoch in range(5)
    ]  # as good on average, but for chance
    best = min(range(5), key=lambda epoch: float(crossed[epoch].mean()))
    assert epochs_to_keep(torch.stack(crossed)) >= best


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 9999))
def test_the_rule_is_one_standard_error_of_paired_differences(rows, epochs, seed):
    table = np.random.default_rng(seed).normal(size=(epochs + 1, rows))
    differences = table - table[table.mean(1).argmin()]
    error = differences.std(1, ddof=1) / np.sqrt(rows)
    wanted = max(epoch for epoch in range(epochs + 1) if differences[epoch].mean() <= error[epoch])
    assert epochs_to_keep(torch.from_numpy(table)) == wanted


NO_VALIDATION = [torch.zeros(3, 0), torch.tensor([[0.0], [9.0], [9.0]]), torch.full((3, 4), torch.nan)]


@pytest.mark.parametrize("validation", NO_VALIDATION, ids=["none", "one", "not finite"])
@pytest.mark.parametrize(
    ("training", "kept"),
    [([3, 2, 1], 2), ([3, 4, 2], 2), ([3, 2, 1e12], 1), ([3, 1e12, torch.nan], 0), ([3, 3, 3], 2)],
)
def test_without_two_finite_validation_rows_the_last_epoch_that_learned_is_kept(training, kept, validation):
    """The whole schedule, unless it ends with a larger loss on training rows than it began with: the rate was too high."""
    rows = [torch.tensor([value - 1.0, value + 1.0]) for value in training]
    assert tuned(Tune(epochs=2), validation, rows)[0] == kept


def test_without_rows_that_have_a_label_the_whole_schedule_is_kept():
    assert tuned(Tune(epochs=2), torch.zeros(3, 0), torch.zeros(3, 0))[0] == 2


class Generations(Ground):
    """A silo that also remembers who taught, and whose loss depends on how often the model was tuned."""

    def __init__(self, losses):
        super().__init__(losses)
        self.taught, self.generation = [], 0

    def adapted(self, state, moved):
        return state

    def scores(self, state):
        self.generation += 1
        return torch.full((5, 3), float(self.generation))

    def train(self, state, phase, lr=None, repeat=0):
        terms = phase.objective or ()
        teacher = {key: float(one[0, 0]) for key, one in state.items() if key.startswith("summary/")}
        self.taught.append((repeat, [type(term).__name__ for term in terms], teacher))
        return {"epochs": state["epochs"] + 1, "made": torch.tensor(float(self.generation))}

    def losses(self, state, rows="val"):
        known = self.by_epoch["val"]
        return known[int(state["made"])] if "made" in state else torch.full_like(known[0], 99.0)


def test_each_generation_starts_anew_and_learns_from_the_one_before():
    site = Generations([torch.tensor([3.0 - one, 4.0 - one]) for one in range(3)])
    used = Tune(epochs=2, generations=2)(site, {"epochs": torch.zeros(())}, {})
    assert int(used["made"]) == 2
    assert int(used["epochs"]) == 2  # from the received model, not from the model before
    assert not [name for name in used if "/" in name]
    teachers = [teacher for *_, teacher in site.taught]
    assert teachers == [{}, {}, *[{"summary/teacher": 1.0}] * 2, *[{"summary/teacher": 2.0}] * 2]
    assert [terms for _, terms, _ in site.taught[:2]] == [[], []]  # the method's own
    assert {tuple(terms) for _, terms, _ in site.taught[2:]} == {("TaskLoss", "FollowTeacher")}
    assert [repeat for repeat, *_ in site.taught] == [0, 1, 2, 3, 4, 5]  # each draws batches of its own


def test_a_generation_is_dropped_only_if_an_earlier_one_is_clearly_better():
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 1, 200))
    rising = Generations([noise + 0.5 * one for one in range(3)])
    assert int(Tune(epochs=1, generations=2)(rising, {"epochs": torch.zeros(())}, {})["made"]) == 0
    flat = Generations([noise, noise + 0.001 * noise, noise + 0.002 * noise.flip(0)])
    assert int(Tune(epochs=1, generations=2)(flat, {"epochs": torch.zeros(())}, {})["made"]) == 2


def test_without_epochs_there_are_no_generations():
    site = Generations([torch.zeros(2)])
    first = {"epochs": torch.zeros(())}
    assert Tune(epochs=0, generations=3)(site, first, {}) is first
    assert site.taught == []
