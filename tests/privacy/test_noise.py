"""
The stream compared with published AES-256 blocks, the numbers compared with scipy, and that they are never repeated.
"""

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from fedtl.privacy.noise import CHUNK, Noise, grain

# AES-256 under a key of zeros of the counters 0, 1 and 2: test cases 13 and 14 of McGrew and Viega, "The Galois/Counter
# Mode of Operation" (2004): H, the tag of an empty message, and the first block of ciphertext of zeros.
BLOCKS = (
    "dc95c078a2408989ad48a21492842087",
    "530f8afbc74536b9a963b4f1c4cb738b",
    "cea7403d4d606b6e074ec5d3baf39d18",
)


def test_stream_is_aes_in_counter_mode(monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    words = np.frombuffer(bytes.fromhex("".join(BLOCKS)), "<u8")
    expected = [int(word >> np.uint64(11)) / 2**53 for word in words]
    assert Noise().uniform(6).tolist() == expected


def test_normal_numbers_equal_box_muller_written_out(monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    words = np.frombuffer(bytes.fromhex("".join(BLOCKS))[: 4 * 8], "<u8")
    w, v = (words[:2] >> np.uint64(1)) / 2**64, (words[2:] >> np.uint64(11)) / 2**53
    radius = 5 * np.sqrt(-2 * np.log(np.where(words[:2] % 2, w, 1 - w)))
    expected = [*(radius * np.cos(2 * np.pi * v)), radius[0] * np.sin(2 * np.pi * v[0])]
    np.testing.assert_allclose(Noise().normal((3,), 5.0), expected, rtol=1e-9)


def test_tails_and_small_radii_exist(monkeypatch):
    """The smallest numbers of the stream give the largest radius, and radii without steps near 0; none is infinite."""

    monkeypatch.setattr(Noise, "_bits", lambda self, count: np.full(count, 1, "<u8"))
    monkeypatch.setattr(Noise, "uniform", lambda self, count: torch.zeros(count, dtype=torch.float64))
    assert Noise().normal((1,), 1.0).item() == pytest.approx(np.sqrt(2 * 65 * np.log(2)), rel=1e-9)
    for word in (2**4, 2**9, 2**12, 2**30):  # even: u is 1 - w, with w = (word + 1) / 2^65
        monkeypatch.setattr(Noise, "_bits", lambda self, count, word=word: np.full(count, word, "<u8"))
        assert Noise().normal((1,), 1.0).item() == pytest.approx(
            np.sqrt(2 * (word + 1) / 2**65), abs=2.0**-36
        )


@pytest.mark.parametrize("std", [1.0, 0.3, 5e-4, 7e5])
def test_release_is_the_rounded_total_plus_independent_noise(std):
    """Exact to the bit for every total: the noise can be recovered, and is always the same."""
    step = grain(std)
    assert np.log2(step) % 1 == 0
    assert std * 2.0**-37 < step <= std * 2.0**-36
    totals = torch.randn(4, 1000, dtype=torch.float64) * torch.tensor([[0.0], [1e-9], [1.0], [1e3]]) * std
    for total in totals:
        noise = Noise.reproducible(5).normal((1000,), std)
        released = Noise.reproducible(5).add(total, std)
        assert torch.equal(noise % step, torch.zeros(1000, dtype=torch.float64))
        assert torch.equal(released - noise, (total / step).round() * step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_release_has_the_shape_and_type_of_its_total(dtype):
    """
    The noise is far above what float32 resolves of these totals (5e-7 at most), so that it must show, and its 150 numbers
    stay below 9 deviations (a chance of 4e-17 that one does not).
    """
    total = torch.randn(2, 3, 5, 5, dtype=dtype).clamp_(-4, 4).to(memory_format=torch.channels_last)
    before, std = total.clone(), 1e-3
    released = Noise().add(total, std)
    assert released.dtype == dtype
    torch.testing.assert_close(released, total, rtol=0, atol=9 * std)
    assert (released != total).float().mean() > 0.9
    assert torch.equal(total, before)
    assert Noise().add(torch.tensor(2.0), 1.0).shape == ()
    assert Noise().add(torch.empty(0), 1.0).shape == (0,)
    parts = Noise.reproducible(6).add(torch.zeros(3 * CHUNK + 7, dtype=dtype), 1.0).split(CHUNK)
    assert len(parts) == 4
    assert not torch.equal(parts[0], parts[1])


def test_every_instance_has_its_own_key(monkeypatch):
    keys = []

    def urandom(size):
        keys.append(os.getrandom(size))
        return keys[-1]

    monkeypatch.setattr(os, "urandom", urandom)
    first, second = Noise(), Noise()
    assert [len(key) for key in keys] == [32, 32]
    assert keys[0] != keys[1]
    one, other = (noise.normal((200_000,), 1.0).numpy() for noise in (first, second))
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(len(one))


@pytest.mark.parametrize("std", [1.0, 0.25])
def test_numbers_are_normal(std):
    x = Noise.reproducible(0).normal((400, 1000), std)
    assert x.shape == (400, 1000)
    assert x.dtype == torch.float64
    x = x.flatten().numpy() / std
    n = len(x)
    assert abs(x.mean()) < 4 / np.sqrt(n)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(x)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(x)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(x, "norm").pvalue > 0.01


def test_neighbours_are_independent():
    """
    Two numbers half a draw apart come from one pair, as its cosine and its sine; their sizes must be independent
    too.
    """
    x = Noise.reproducible(1).normal((300_000,), 1.0).numpy()
    bound = 4 / np.sqrt(len(x))
    for lag in (1, 2, 150_000):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < bound
        assert abs(np.corrcoef(x[:-lag] ** 2, x[lag:] ** 2)[0, 1]) < bound


def test_uniform_numbers():
    u = Noise.reproducible(2).uniform(300_000)
    assert 0 <= u.min() < u.max() < 1
    assert torch.equal((u * 2**53).long().double(), u * 2**53)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (CHUNK + 1,), torch.Size((2, 3))])
def test_any_shape(shape):
    assert Noise().normal(shape, 1.0).shape == torch.Size(shape)


def test_reproducible_noise_repeats_and_is_not_private():
    one, same, other = (Noise.reproducible(seed) for seed in (7, 7, 8))
    x = one.normal((5,), 1.0)
    assert torch.equal(x, same.normal((5,), 1.0))
    assert not torch.equal(x, other.normal((5,), 1.0))
    assert not torch.equal(x, one.normal((5,), 1.0))
    assert not one.private
    assert Noise().private


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_standard_deviation_of_zero_is_refused(std):
    with pytest.raises(ValueError, match="above 0"):
        Noise().normal((2,), std)
    with pytest.raises(ValueError, match="above 0"):
        Noise().add(torch.zeros(2), std)


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_noise_cannot_be_stored(way):
    with pytest.raises(TypeError, match="be stored"):
        way(Noise())


def test_forked_process_cannot_continue_the_stream(monkeypatch):
    noise = Noise()
    noise.uniform(1)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="forked process"):
        noise.uniform(1)


@pytest.mark.parametrize("count", [0, 1, 7, 2 * CHUNK + 1])
@pytest.mark.parametrize("std", [1.0, 5e-4])
def test_the_formula_for_a_gpu_gives_the_same_numbers(count, std):
    """Here on the CPU. Two math libraries may round a number to neighbouring grains."""
    noise = Noise.reproducible(2)
    wanted = torch.cat([noise._grains(len(part), std) for part in torch.empty(count).split(CHUNK)])
    found = Noise.reproducible(2)._grains_on(torch.device("cpu"), count, std)
    assert found.shape == wanted.shape
    assert bool(((found - wanted).abs() <= 1).all())
