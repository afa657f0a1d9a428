"""The server's rounds over toy silos without a model: which are asked, which count, and that order does not matter."""

import re
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from fedtl._util.randomness import torch_generator
from fedtl.errors import NotEnoughSilos
from fedtl.federation.limits import UpdateLimits
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Refusal, Task, Update
from fedtl.methods.server import ServerStep
from fedtl.models.roles import Role

ROLES = {"body.w": Role.BODY, "body.n.running_mean": Role.STATS}
WEIGHTS = {"ada": 3.0, "bob": 17.0, "cleo": 0.1, "dan": 5.0, "eve": 1e3}


def start():
    return ServerState(
        0, {"body.n.running_mean": torch.zeros(3), "body.w": torch.linspace(-1, 1, 6).reshape(2, 3)}
    )


@dataclass
class Toys:
    """Silos that reply with constants, in the order ``order``; a function in ``lies`` replaces a silo's reply."""

    order: object = sorted
    lies: dict = field(default_factory=dict)
    tasks: list = field(default_factory=list)
    asked: list = field(default_factory=list)

    def silos(self):
        return self.order(WEIGHTS)

    def ask(self, task, silos):
        self.tasks.append(task)
        self.asked.append(list(silos))
        for name in self.order(silos):
            generator = torch_generator(name, task.round)
            delta = {n: 0.1 * t + torch.randn(t.shape, generator=generator) for n, t in task.shared.items()}
            reply = Update(name, task.round, delta, WEIGHTS[name], {"loss": float(task.round)})
            lie = self.lies.get(name, lambda update: update)(reply)
            if lie is not None:
                yield lie


def run(federation, standing=None, **changes):
    plan = replace(FederationConfig("toys", 0, 4, ServerStep()), **changes)
    return list(run_rounds(federation, plan, standing or start(), ROLES))


def shuffled(seed):
    return lambda names: np.random.default_rng(seed).permutation(sorted(names)).tolist()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("server", ["mean", "median", "trimmed", "adam"])
def test_the_order_of_replies_does_not_matter(server):
    straight = run(Toys(), server=ServerStep(server))
    for order in (shuffled(1), shuffled(2), lambda names: sorted(names, reverse=True)):
        crossed = run(Toys(order), server=ServerStep(server))
        for a, b in zip(straight, crossed, strict=True):
            assert same(a.after.shared, b.after.shared)
            assert list(a.replies) == list(b.replies) == sorted(WEIGHTS)


def test_the_task_of_each_round_and_what_the_history_keeps():
    toys = Toys()
    history = run(toys)
    assert [one.after.round for one in history] == [1, 2, 3, 4]
    assert [(t.study, t.round, t.rounds, t.seed) for t in toys.tasks] == [
        ("toys", n, 4, 0) for n in (1, 2, 3, 4)
    ]
    assert same(toys.tasks[0].shared, start().shared)
    for before, after in zip(history, toys.tasks[1:], strict=False):
        assert same(before.after.shared, after.shared)
    assert {name: reply.weight for name, reply in history[0].replies.items()} == WEIGHTS
    assert history[2].replies["bob"].metrics == {"loss": 3.0}


def test_a_round_is_the_weighted_mean():
    toys = Toys()
    (first,) = run(toys, rounds=1)
    deltas = {
        name: {
            update.silo: update.delta[name].double().numpy() for update in toys.ask(toys.tasks[0], WEIGHTS)
        }
        for name in ROLES
    }
    for name, by_silo in deltas.items():
        mean = np.average([by_silo[silo] for silo in WEIGHTS], axis=0, weights=list(WEIGHTS.values()))
        np.testing.assert_allclose(first.after.shared[name], start().shared[name].numpy() + mean, atol=1e-5)


def changed(name, value):
    def lie(update):
        return replace(update, delta={**update.delta, name: value})

    return lie


def without(update):
    return replace(update, delta={"body.w": update.delta["body.w"]})


NAN = torch.tensor([[1.0, 2.0, float("nan")], [0.0, 0.0, 0.0]])
LIES = {
    "nan": (changed("body.w", NAN), "bob: body.w is not finite"),
    "inf": (changed("body.w", torch.full((2, 3), float("inf"))), "bob: body.w is not finite"),
    "shape": (changed("body.w", torch.zeros(3, 2)), r"bob: body.w is \(3, 2\)"),
    "broadcast": (changed("body.w", torch.zeros(1, 3)), r"bob: body.w is \(1, 3\)"),
    "dtype": (changed("body.w", torch.zeros(2, 3, dtype=torch.float64)), "bob: body.w is .*float64"),
    "extra": (changed("head.w", torch.zeros(1)), "bob: its update has 'head.w'"),
    "missing": (without, "bob: its update lacks 'body.n.running_mean'"),
    "late": (lambda update: replace(update, round=update.round - 1), "bob: its update is for round 0"),
    "early": (lambda update: replace(update, round=update.round + 1), "bob: its update is for round 2"),
    "no weight": (lambda update: replace(update, weight=0.0), "bob: its weight is 0.0"),
    "negative weight": (lambda update: replace(update, weight=-1.0), "bob: its weight is -1.0"),
    "nan weight": (lambda update: replace(update, weight=float("nan")), "bob: its weight is nan"),
    "inf weight": (lambda update: replace(update, weight=float("inf")), "bob: its weight is inf"),
    "refusal": (lambda update: Refusal("bob", update.round, "the policy says no"), "the policy says no"),
}


@pytest.mark.parametrize("what", LIES)
def test_an_invalid_reply_is_left_out_with_its_reason(what):
    lie, reason = LIES[what]
    (one,) = run(Toys(lies={"bob": lie}), rounds=1)
    assert list(one.left_out) == ["bob"]
    assert re.fullmatch(f"{reason}.*", one.left_out["bob"]), one.left_out
    assert list(one.replies) == ["ada", "cleo", "dan", "eve"]
    (silent,) = run(Toys(lies={"bob": lambda update: None}), rounds=1)
    assert same(one.after.shared, silent.after.shared)
    assert silent.left_out == {}
    assert one.bytes_up == silent.bytes_up
    assert one.bytes_down == silent.bytes_down


def test_the_plan_fixes_how_much_an_update_counts():
    """An update with a weight of a million million, and one with a large norm, against numpy."""
    lies = {
        "bob": lambda update: replace(update, weight=1e12),
        "eve": changed("body.w", torch.full((2, 3), 1e6)),
    }
    replies = {u.silo: u for u in Toys().ask(Task("toys", 1, 1, 0, start().shared), WEIGHTS)}
    for limits, weights in (
        (UpdateLimits("equal", max_norm=100.0), [1, 1, 1, 1]),
        (UpdateLimits("rows", 4.0, 100.0), [3, 4, 0.1, 4]),
    ):
        (one,) = run(Toys(lies=lies), rounds=1, limits=limits)
        assert re.match(r"eve: .* norm 2.449e\+06; .* 100", one.left_out["eve"])
        deltas = [replies[name].delta["body.w"].double().numpy() for name in ("ada", "bob", "cleo", "dan")]
        mean = start().shared["body.w"].numpy() + np.average(deltas, axis=0, weights=weights)
        np.testing.assert_allclose(one.after.shared["body.w"], mean, atol=1e-6)
        assert one.replies["bob"].weight == 1e12
        for name, reply in one.replies.items():
            values = np.concatenate([tensor.numpy().ravel() for tensor in replies[name].delta.values()])
            assert reply.norm == pytest.approx(np.linalg.norm(values.astype(float)))


def test_a_silo_that_was_left_out_is_asked_again():
    def once(update):
        return Refusal("bob", 1, "asleep") if update.round == 1 else update

    history = run(Toys(lies={"bob": once}))
    assert ["bob" in one.replies for one in history] == [False, True, True, True]


def test_too_few_valid_replies_end_the_run():
    lies = {"bob": LIES["nan"][0], "eve": lambda update: None}
    lies["ada"] = lambda update: Refusal("ada", update.round, "ada: the policy says no")
    assert len(run(Toys(lies=lies), minimum_silos=2)) == 4
    with pytest.raises(NotEnoughSilos, match="minimum_silos = 3") as caught:
        run(Toys(lies=lies), minimum_silos=3)
    assert "ada: the policy says no" in str(caught.value)
    assert "bob: body.w is not finite" in str(caught.value)
    assert caught.value.exit_code == 4
    everybody = {name: lambda update: None for name in WEIGHTS}
    with pytest.raises(NotEnoughSilos, match="no reply came"):
        run(Toys(lies=everybody))


def test_the_rounds_before_the_error_are_yielded():
    def fails(update):
        return None if update.round == 3 else update

    run_of = run_rounds(
        Toys(lies=dict.fromkeys(WEIGHTS, fails)), FederationConfig("toys", 0, 4, ServerStep()), start(), ROLES
    )
    assert [next(run_of).after.round, next(run_of).after.round] == [1, 2]
    with pytest.raises(NotEnoughSilos, match="round 3"):
        next(run_of)


def test_sampling_is_by_seed_and_round_and_of_the_right_number():
    def asked(**changes):
        toys = Toys(changes.pop("order", sorted))
        run(toys, rounds=20, silos_per_round=3, **changes)
        return toys.asked

    first = asked()
    assert all(len(set(names)) == 3 and names == sorted(names) for names in first)
    assert first == asked() == asked(order=shuffled(3))
    assert first != asked(seed=1)
    assert len({tuple(names) for names in first}) > 3
    assert {name for names in first for name in names} == set(WEIGHTS)


@pytest.mark.parametrize("number", [None, 5, 50])
def test_all_silos_are_asked_without_sampling(number):
    toys = Toys()
    run(toys, silos_per_round=number)
    assert toys.asked == [sorted(WEIGHTS)] * 4


def test_a_resumed_run_samples_the_same_silos():
    whole, resumed = Toys(), Toys()
    history = run(whole, silos_per_round=2)
    run(resumed, history[1].after, silos_per_round=2)
    assert resumed.asked == whole.asked[2:]


@pytest.mark.parametrize(
    "server",
    [
        ServerStep(),
        ServerStep("adam", settings={"lr": 0.1}),
        ServerStep("sgd", settings={"lr": 0.5, "momentum": 0.9}),
        ServerStep("nadam", settings={"lr": 0.1}),
    ],
    ids=lambda server: server.name,
)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_resumed_run_has_the_same_bits(server, after):
    whole = run(Toys(), server=server)
    resumed = run(Toys(), whole[after - 1].after, server=server)
    assert [one.after.round for one in resumed] == list(range(after + 1, 5))
    for a, b in zip(whole[after:], resumed, strict=True):
        assert same(a.after.shared, b.after.shared)


def test_without_the_state_of_adam_the_bits_differ():
    server = ServerStep("adam", settings={"lr": 0.1})
    whole = run(Toys(), server=server)
    forgetful = run(Toys(), replace(whole[1].after, memory={}), server=server)
    assert not same(whole[3].after.shared, forgetful[1].after.shared)


def test_a_finished_run_has_no_rounds_left():
    toys = Toys()
    assert run(toys, replace(start(), round=4)) == []
    assert toys.tasks == []


def test_bytes():
    size = (3 + 6) * 4
    whole = run(Toys())
    assert {(one.bytes_down, one.bytes_up) for one in whole} == {(5 * size, 5 * size)}
    sampled = run(Toys(lies=dict.fromkeys(("ada", "bob"), LIES["nan"][0])), silos_per_round=4)
    for one in sampled:
        assert one.bytes_down == 4 * size
        assert one.bytes_up == len(one.replies) * size < 4 * size


def test_nothing_shared_is_no_traffic():
    (one,) = run(Toys(), ServerState(0, {}), rounds=1)
    assert one.after.shared == {}
    assert one.bytes_up == one.bytes_down == 0
    assert len(one.replies) == 5


def test_a_second_reply_does_not_count():
    class Twice(Toys):
        def ask(self, task, silos):
            for update in super().ask(task, silos):
                yield update
                if update.silo == "bob":
                    yield replace(update, weight=1e9)

    (once,), (twice,) = run(Toys(), rounds=1), run(Twice(), rounds=1)
    assert same(once.after.shared, twice.after.shared)
    assert list(twice.left_out) == ["bob"]
    assert "more than one" in twice.left_out["bob"]
    assert twice.replies == once.replies


def test_the_mean_holds_one_update_at_a_time():
    """The median needs all updates at once; the mean only the one that it adds, and those that came too early."""
    alive, most = weakref.WeakSet(), []

    class Watched(Toys):
        def ask(self, task, silos):
            for update in super().ask(task, silos):
                kept = replace(update, delta=Kept(update.delta))
                alive.add(kept.delta)
                del update
                yield kept
                del kept
                most.append(len(alive))

    run(Watched(), rounds=1)
    assert max(most) <= 2
    most.clear()
    run(Watched(), rounds=1, server=ServerStep("median"))
    assert max(most) >= 4


class Kept(dict):
    """A dictionary that a WeakSet can hold."""

    __hash__ = object.__hash__
