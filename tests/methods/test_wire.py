"""Compressed updates: each form against numpy, error feedback against what was not compressed, and what a peer may send."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedtl.federation.flower import reply_from_message, reply_to_records
from fedtl.federation.policy import make_manifest
from fedtl.federation.rounds import FederationConfig, ServerState, run_rounds
from fedtl.messages import Update
from fedtl.methods.codecs import MOST_FLOAT32, Int8, TopK, smaller
from fedtl.methods.error_feedback import with_wire
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.methods.sets import RESIDUAL, part
from fedtl.methods.wire import WIRE_TYPES, Encoding, Wire
from fedtl.models.roles import Role
from fedtl.models.state import size_in_bytes
from fedtl.training.trainer import Trainer
from tests.federation.grids import sent as flower_message
from tests.federation.grids import wire as over_flower
from tests.training.silos import FULL_BATCH, federate, mlp, same, silo_at, spec_for, task_for

LOSSY = WIRE_TYPES[1:]
NAME = "body.w"
ROLES = {NAME: Role.BODY, f"{RESIDUAL}/{NAME}": Role.EXTRA, "body.n.running_mean": Role.STATS}


def encoding_of(dtype, fraction=0.2):
    return Encoding.of(Wire(dtype, fraction), ROLES)


def numpy_form(dtype, p, fraction):
    """What a float32 array becomes, computed with numpy alone."""
    if dtype == "bf16":  # round to nearest, ties to even, on the bits
        bits = p.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    if dtype == "int8":
        scale = np.float32(np.abs(p.astype(np.float64)).max() / 127)
        return (np.rint(p.astype(np.float64) / scale) * scale).astype(np.float32)
    if dtype == "sign":
        return np.where(p >= 0, 1, -1) * np.float32(np.abs(p.astype(np.float64)).mean())
    kept, flat = np.zeros(p.size, np.float32), p.ravel()
    largest = np.argsort(-np.abs(flat), kind="stable")[: int(np.ceil(fraction * p.size - 1e-9))]
    kept[largest] = flat[largest]
    return kept.reshape(p.shape)


@pytest.mark.parametrize("dtype", LOSSY)
def test_a_form_is_what_numpy_makes_of_it_and_is_smaller_on_the_wire(dtype):
    p = np.random.default_rng(0).normal(size=(9, 11)).astype(np.float32)
    p[0, :4] = [0.5, -0.5, 0.5, 0.0]  # equal magnitudes
    tensor, encoding = torch.from_numpy(p), encoding_of(dtype)
    parts, residual = encoding.encode({NAME: tensor}, {NAME: torch.zeros(9, 11)})
    read = encoding.decode(parts, {NAME: tensor})[NAME]
    np.testing.assert_array_equal(read.numpy(), numpy_form(dtype, p, 0.2))
    assert torch.equal(residual[NAME], tensor - read)
    wanted = {"bf16": 198, "int8": 99 + 4, "sign": 13 + 4, "top-k": 20 * 8}
    assert size_in_bytes(parts) == wanted[dtype]


ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=40, deadline=None)
@given(array=ARRAYS, dtype=st.sampled_from(LOSSY), fraction=st.sampled_from([0.001, 0.07, 0.5, 1.0]))
def test_any_tensor_is_read_with_its_shape_and_never_takes_more_bytes(array, dtype, fraction):
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    encoding = encoding_of(dtype, fraction)
    parts, residual = encoding.encode({NAME: tensor}, {NAME: torch.zeros_like(tensor)})
    layout = encoding.layout({NAME: tensor.to("meta")})
    assert {name: (tuple(part.shape), part.dtype) for name, part in parts.items()} == layout
    read = encoding.decode(parts, {NAME: tensor})[NAME]
    assert (read.shape, read.dtype) == (tensor.shape, tensor.dtype)
    assert size_in_bytes(parts) <= size_in_bytes({NAME: tensor})
    p, left = tensor.double(), residual[NAME].double()
    assert left.norm() <= p.norm() * (1 + 1e-6)  # what is left out is never more than what was wanted
    if dtype == "int8" and parts[NAME].dtype == torch.int8:
        largest = float(p.abs().max())
        share = (
            0.5 if largest <= MOST_FLOAT32 / 128 * 127 else 1
        )  # above that, the scale ends below largest / 127
        assert float(left.abs().max()) <= share * largest / 127 * (1 + 1e-4) + 2**-149 * 127
    if dtype == "top-k" and f"values/{NAME}" in parts:
        k = len(parts[f"values/{NAME}"])  # Stich et al., 2018: top-k is a contraction by 1 - k/n
        assert left.norm() ** 2 <= (1 - k / p.numel()) * p.norm() ** 2 * (1 + 1e-6)


@pytest.mark.parametrize("dtype", LOSSY)
def test_what_was_sent_is_the_sum_of_all_updates_but_the_last_residual(dtype):
    """On whole numbers, all of whose sums float32 holds, bit for bit; the scales of int8 and sign are not among them."""
    rng, encoding = np.random.default_rng(1), encoding_of(dtype)
    residual, total, sent = {NAME: torch.zeros(6, 8)}, torch.zeros(6, 8).double(), torch.zeros(6, 8).double()
    for _ in range(30):
        delta = torch.from_numpy(rng.integers(-300, 300, (6, 8)).astype(np.float32))
        parts, residual = encoding.encode({NAME: delta}, residual)
        total += delta
        sent += encoding.decode(parts, {NAME: delta})[NAME].double()
    assert residual[NAME].any()
    exact = dtype in ("bf16", "top-k")
    torch.testing.assert_close(
        sent, total - residual[NAME].double(), rtol=0, atol=0 if exact else 30 * 1e3 * 2**-23
    )
    assert not torch.allclose(sent, total)


def test_a_tensor_that_would_not_shrink_is_sent_as_it_is():
    assert smaller(Int8(), torch.zeros(1)).layout(torch.zeros(1)) == {"": ((1,), torch.float32)}
    assert smaller(TopK(0.6), torch.zeros(10)).layout(torch.zeros(10)) == {"": ((10,), torch.float32)}
    delta = {NAME: torch.tensor([0.3])}
    parts, residual = encoding_of("int8").encode(delta, {NAME: torch.zeros(1)})
    assert same(parts, delta)
    assert not residual[NAME].any()


def bad(parts, **changes):
    return {name: changes.get(name.partition("/")[0], tensor) for name, tensor in parts.items()}


@pytest.mark.parametrize(
    ("dtype", "change", "reason"),
    [
        ("top-k", {"indices": [0, 1, 2, 2]}, "not ascending"),
        ("top-k", {"indices": [3, 2, 1, 0]}, "not ascending"),
        ("top-k", {"indices": [-1, 1, 2, 3]}, "not ascending"),
        ("top-k", {"indices": [0, 1, 2, 20]}, "numbers from 0 to 19"),
        ("top-k", {"indices": [0, 1, 2, 3, 4]}, r"is \(5,\)"),
        ("top-k", {"indices": torch.arange(4)}, "torch.int64"),
        ("top-k", {"values": torch.full((4,), torch.nan)}, "not finite"),
        ("top-k", {"values": torch.zeros(1 << 20)}, r"is \(1048576,\)"),
        ("int8", {"scale": torch.tensor(torch.inf)}, "not finite"),
        ("int8", {"scale": torch.tensor(3e38)}, "body.w is not finite"),
        ("int8", {"scale": torch.zeros(1)}, r"is \(1,\)"),
        ("sign", {"signs": torch.zeros(4, dtype=torch.uint8)}, r"is \(4,\)"),
        ("sign", {"scale": torch.tensor(torch.nan)}, "not finite"),
        ("bf16", {NAME: torch.zeros(4, 5)}, "torch.float32"),
    ],
)
def test_what_a_peer_claims_is_checked_and_the_silo_left_out(dtype, change, reason):
    start = {NAME: torch.zeros(4, 5), "body.n.running_mean": torch.zeros(2)}
    encoding = encoding_of(dtype)
    change = {k: torch.tensor(v, dtype=torch.int32) if isinstance(v, list) else v for k, v in change.items()}

    class Two:
        def silos(self):
            return ["bad", "good"]

        def ask(self, task, silos):
            delta = {NAME: torch.randn(4, 5), "body.n.running_mean": torch.ones(2)}
            parts, _ = encoding.encode(delta, {NAME: torch.zeros(4, 5)})
            yield Update("bad", 1, bad(parts, **change), 1.0)
            yield Update("good", 1, parts, 1.0)

    plan = FederationConfig("s", 0, 1, ServerStep(), wire=Wire(dtype, 0.2))
    (finished,) = run_rounds(Two(), plan, ServerState(0, start), ROLES)
    assert list(finished.replies) == ["good"]
    assert re.search(reason, finished.left_out["bad"])


def test_missing_and_further_tensors_are_refused():
    encoding, like = encoding_of("int8"), {NAME: torch.zeros(4, 5)}
    parts, _ = encoding.encode({NAME: torch.randn(4, 5)}, {NAME: torch.zeros(4, 5)})
    with pytest.raises(ValueError, match="lacks 'scale/body.w'"):
        encoding.decode({NAME: parts[NAME]}, like)
    with pytest.raises(ValueError, match="not asked for"):
        encoding.decode({**parts, "values/body.w": torch.zeros(2)}, like)


# Through a silo


def trainer_of(name="fedavg", wire=None):
    method = METHODS[name]()
    return Trainer(mlp(), with_wire(method, wire) if wire else method, FULL_BATCH)


@pytest.mark.parametrize("name", ["fedavg", "fedtl", "scaffold"])
@pytest.mark.parametrize("dtype", LOSSY)
def test_error_feedback_at_a_silo(name, dtype):
    """Beside the same silo without compression: what was sent is the sum of its updates but the residual."""
    trainer, plain = trainer_of(name, Wire(dtype, 0.1)), trainer_of(name)
    silo, other = silo_at(trainer), silo_at(plain)
    task = task_for(plain, other)
    total = {key: torch.zeros_like(tensor) for key, tensor in task.shared.items()}
    sent = dict(total)
    for number in (1, 2, 3):
        task = replace(task, round=number)
        update, wanted = trainer.fit(silo, task), plain.fit(other, task)
        read = trainer.encoding.decode(update.delta, task.shared)
        total = {key: total[key] + wanted.delta[key] for key in total}
        sent = {key: sent[key] + read[key] for key in sent}
        assert size_in_bytes(update.delta) < size_in_bytes(wanted.delta)
    residual = part(silo.local, RESIDUAL)
    assert any(one.any() for one in residual.values())
    for key, tensor in total.items():
        exact = key not in residual
        wanted = tensor if exact else tensor - residual[key]
        torch.testing.assert_close(sent[key], wanted, rtol=0, atol=0 if exact else 1e-5)
    exact = {key for key in total if key not in residual}
    assert {trainer.partition.roles[key] for key in exact} <= {Role.STATS, Role.EXTRA, Role.SUMMARY}
    assert same({k: v for k, v in silo.local.items() if not k.startswith(RESIDUAL)}, other.local)


def test_in_float32_nothing_changes():
    method = METHODS["fedavg"]()
    assert with_wire(method, Wire()) is method
    delta = {NAME: torch.randn(3), "body.n.running_mean": torch.zeros(3)}
    parts, residual = Encoding.of(Wire(), {NAME: Role.BODY}).encode(delta, {})
    assert residual == {}
    assert all(parts[name] is tensor for name, tensor in delta.items())
    partition = trainer_of().partition
    state = trainer_of().initial(3)
    assert make_manifest(partition, state) == make_manifest(
        partition, state, Encoding.of(Wire(), partition.roles)
    )


@pytest.mark.zoo
@pytest.mark.parametrize("name", METHODS)
def test_every_method_compresses_its_weights_or_says_why_not(name):
    method = METHODS[name]()
    if name == "ifca":
        with pytest.raises(ValueError, match="pick one"):
            with_wire(method, Wire("sign"))
        return
    wired = with_wire(method, Wire("sign"))
    if method.pool or not method.shared - {Role.STATS}:
        assert wired is method
        return
    trainer = Trainer(spec_for(name), wired, FULL_BATCH)
    weights = {key for key, role in trainer.partition.roles.items() if role in method.shared - {Role.STATS}}
    assert trainer.encoding.compressed == weights
    listed = make_manifest(trainer.partition, trainer.initial(3), trainer.encoding)
    plain = make_manifest(trainer.partition, trainer.initial(3))
    assert listed.bytes < plain.bytes or not weights
    assert {line.role for line in listed.lines} == {line.role for line in plain.lines}


@pytest.mark.parametrize("dtype", WIRE_TYPES)
def test_flower_carries_every_form_bit_for_bit_and_the_server_measures_it(dtype):
    trainer = trainer_of("fedtl", Wire(dtype, 0.1))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    update = trainer.fit(silo, task)
    back = reply_from_message(over_flower(flower_message(reply_to_records(update))), "here", task)
    assert same(back.delta, update.delta)
    (finished,) = federate(trainer, [silo_at(trainer)])
    layout = trainer.encoding.layout(task.shared)
    assert finished.bytes_up == size_in_bytes(update.delta)
    assert finished.bytes_up == sum(torch.empty(s, dtype=d, device="meta").nbytes for s, d in layout.values())
    assert finished.bytes_full == finished.bytes_down == size_in_bytes(task.shared)


def test_the_server_combines_what_it_decoded():
    """The median of signs, against numpy on what each silo's message stands for."""
    trainer = trainer_of("fedavg", Wire("sign"))
    silos = [silo_at(trainer, name, secret=name.encode()) for name in ("a", "b", "c")]
    task = task_for(trainer, silos[0])
    read = [trainer.encoding.decode(trainer.fit(silo, task).delta, task.shared) for silo in silos]

    class Three:
        def silos(self):
            return ["a", "b", "c"]

        def ask(self, task, names):
            for name in names:
                yield trainer.fit(silo_at(trainer, name, secret=name.encode()), task)

    plan = FederationConfig("test", 0, 1, ServerStep("median"), wire=Wire("sign"))
    start = ServerState(0, task.shared)
    (finished,) = run_rounds(Three(), plan, start, trainer.partition.roles)
    for name in trainer.encoding.compressed:
        median = np.median([one[name].numpy() for one in read], axis=0)
        np.testing.assert_allclose(
            (finished.after.shared[name] - task.shared[name]).numpy(), median, atol=1e-6
        )
