"""Which worker gets which silos: in order, several small ones at a time, and a silo that failed alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.errors import SiloFailed
from fedtl.simulation.engine import MAX_ATTEMPTS, Fit, UnexpectedFailure
from fedtl.simulation.scheduler import (
    BYTES_AT_ONCE,
    MOST_AT_ONCE,
    QUICK_SECONDS,
    History,
    most_at_once,
    run_in_order,
)
from fedtl.training.silo import Silo


def silos(count, size=1):
    return [Silo(f"silo-{number:03d}", None, {"w": torch.zeros(size)}, b"") for number in range(count)]


class Pool:
    """Workers that answer in the order in which ``draw`` picks them; one dies where it has a silo of ``poison``."""

    def __init__(self, workers, draw, poison=()):
        self.workers, self.draw, self.poison = workers, draw, poison
        self.busy, self.handed = {}, []

    def idle(self):
        return [worker for worker in range(self.workers) if worker not in self.busy]

    def hand(self, worker, group):
        assert worker not in self.busy
        assert group
        self.busy[worker] = group
        self.handed.append(tuple(group))

    def answers(self):
        worker = self.draw(sorted(self.busy))
        group = self.busy.pop(worker)
        if any(silo.name in self.poison for silo in group.values()):
            yield from ((index, UnexpectedFailure("died"), ({}, {})) for index in group)
        else:
            yield from ((index, f"of {silo.name}", (silo.local, {})) for index, silo in group.items())


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, MOST_AT_ONCE), st.data())
def test_every_silo_is_done_once_in_order_whatever_the_order_of_the_answers(count, workers, most, data):
    members, pool = silos(count), Pool(workers, lambda busy: data.draw(st.sampled_from(busy)))
    found = list(run_in_order(pool, members, History(), Fit, most))
    assert found == [(silo.name, f"of {silo.name}") for silo in members]
    assert sorted(index for group in pool.handed for index in group) == list(range(count))
    assert all(len(group) <= most for group in pool.handed)


def test_groups_are_large_first_and_small_at_the_end():
    pool = Pool(2, lambda busy: next(iter(pool.busy)))  # who got a group first answers first
    list(run_in_order(pool, silos(60), History(), Fit, 8))
    sizes = [len(group) for group in pool.handed]
    assert sizes[0] == 8
    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)


def test_quick_silos_go_in_as_few_messages_as_there_are_workers():
    pool, history = Pool(2, min), History(seconds={Fit: QUICK_SECONDS / 2})
    list(run_in_order(pool, silos(6), history, Fit, 8))
    assert pool.handed == [(0, 1, 2), (3, 4, 5)]
    assert history.seconds[Fit] < QUICK_SECONDS  # a stand-in takes no time
    slow = Pool(2, min)
    list(run_in_order(slow, silos(6), History(seconds={Fit: 2 * QUICK_SECONDS}), Fit, 8))
    assert [len(group) for group in slow.handed] == [1] * 6


def test_a_silo_that_ends_its_worker_takes_no_other_with_it():
    members = silos(20)
    pool = Pool(1, min, poison={"silo-003"})
    found = dict(run_in_order(pool, members, History(), Fit, 8))
    failed = [name for name, result in found.items() if isinstance(result, SiloFailed)]
    assert failed == ["silo-003"]
    assert list(found) == [silo.name for silo in members]
    attempts = [group for group in pool.handed if 3 in group]
    assert len(attempts) == MAX_ATTEMPTS
    assert attempts[1:] == [(3,)] * (MAX_ATTEMPTS - 1)


def test_a_stack_goes_to_one_worker_and_after_its_death_one_silo_after_another():
    stacks = {index: stack for stack in ([0, 2], [1, 3, 4], [5]) for index in stack}
    for workers in (1, 2, 3):
        pool = Pool(workers, min)
        assert [name for name, _ in run_in_order(pool, silos(6), History(), Fit, 3, stacks)] == [
            s.name for s in silos(6)
        ]
        assert sorted(pool.handed) == [(0, 2), (1, 3, 4), (5,)]
    pool = Pool(1, min, poison={"silo-003"})
    failed = [
        one
        for _, one in run_in_order(pool, silos(6), History(), Fit, 3, stacks)
        if isinstance(one, SiloFailed)
    ]
    assert len(failed) == 1
    assert sorted(pool.handed) == [(0, 2), (1,), (1, 3, 4), (3,), (4,), (5,)]


def test_a_silo_goes_to_the_worker_that_had_it():
    members, history = silos(16), History()
    list(run_in_order(Pool(2, min), members, history, Fit, 2))
    before = dict(history.worker)
    again = Pool(2, min)
    list(run_in_order(again, members, history, Fit, 2))
    kept = sum(before[name] == history.worker[name] for name in before)
    assert kept >= 12


def test_only_small_silos_go_together():
    assert most_at_once(100, silos(3)) == MOST_AT_ONCE
    assert most_at_once(BYTES_AT_ONCE // 4, silos(3)) == 3
    assert most_at_once(0, silos(3, BYTES_AT_ONCE // 4)) == 1
    assert most_at_once(10 * BYTES_AT_ONCE, silos(3)) == 1
    assert most_at_once(0, []) == MOST_AT_ONCE
