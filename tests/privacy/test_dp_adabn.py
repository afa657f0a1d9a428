"""DP-AdaBN: its result without noise, the effect of one record, and its cost of one Gaussian mechanism."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from fedtl.models.dp_norm import convert_norms
from fedtl.models.norms import adabn_statistics
from fedtl.privacy import dp_adabn as statistics
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.dp_adabn import RADII, StatisticsRelease, adaptable_layers, release_statistics
from fedtl.privacy.noise import Noise


class Silent(Noise):
    """Records what it is asked for, and adds nothing."""

    def __init__(self):
        self.asked = []

    def add(self, total, std):
        self.asked.append((tuple(total.shape), std))
        return total


def body(seed=0, channels=(6, 4)):
    torch.manual_seed(seed)
    first, second = channels
    net = nn.Sequential(
        *(nn.Conv2d(3, first, 3, bias=False), nn.BatchNorm2d(first), nn.ReLU()),
        *(nn.Conv2d(first, second, 3), nn.BatchNorm2d(second)),
    )
    return convert_norms(net).eval()


def inputs(n=400, gain=3.0, offset=0.7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=generator) * gain + offset


def rows_of(x, units=None):
    """Return batches, as a silo does."""
    parts = units.split(64) if units is not None else [None] * len(x.split(64))
    return lambda: zip(x.split(64), parts, strict=True)


def release_of(net, n, noise=1.0, only=None):
    """A release of all layers, or ``only`` of these."""
    fixed = {path: norm for path, norm in adaptable_layers(net).items() if only is None or path in only}
    channels = tuple(norm.running_mean.numel() for norm in fixed.values())
    return StatisticsRelease(noise, tuple(fixed), channels, n)


def moments(net, path, x):
    found = {}
    hook = adaptable_layers(net)[path].register_forward_pre_hook(
        lambda module, given: found.update(x=given[0])
    )
    with torch.no_grad():
        net(x)
    hook.remove()
    return found["x"].mean((0, 2, 3)), found["x"].var((0, 2, 3))


def test_without_noise_it_equals_adabn():
    """Shifted by three standard deviations; the scale is computed for normal inputs, and the inputs are normal."""
    net, x = body(), inputs()
    wanted = adabn_statistics(body(), [x])
    found = release_statistics(net, rows_of(x), release_of(net, len(x)), Silent())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = wanted[name.replace("mean", "var")].sqrt()
        if name.endswith("running_mean"):
            assert ((found[name] - value).abs() < 0.1 * scale).all(), name
        else:
            assert (found[name] / value - 1).abs().max() < 0.25, name
    for path in adaptable_layers(net):
        mean, var = moments(net, path, x)
        assert torch.allclose(found[f"{path}.running_mean"], mean, atol=0.1 * float(var.sqrt().max()))


def test_all_sub_releases_together_cost_one_gaussian_of_the_noise_multiplier():
    net, x, sigma = body(), inputs(50), 2.5
    silent, limits = Silent(), []
    clipped = statistics.clipped
    release = release_of(net, 50, sigma)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            statistics, "clipped", lambda values, limit: limits.append(limit) or clipped(values, limit)
        )
        release_statistics(net, rows_of(x), release, silent)
    assert len(silent.asked) == len(limits) == 2 * len(RADII) * len(adaptable_layers(net))
    spent = sum((limit / std) ** 2 for limit, (_, std) in zip(limits, silent.asked, strict=True))
    assert spent == pytest.approx(1 / sigma**2)
    assert release.mean_noise_std == pytest.approx(sigma * math.sqrt(2 * 2 * 10) / 50)


@settings(max_examples=15, deadline=None)
@given(scale=st.sampled_from([1.0, 1e3, 1e30, math.inf, math.nan]), place=st.integers(0, 19))
def test_one_record_changes_each_sum_by_at_most_the_clip(scale, place):
    """For any content: compares the sums before the noise, with and without the record."""
    x = inputs(20)
    x[place] *= scale
    sums = []
    for rows in (x, torch.cat([x[:place], x[place + 1 :]])):
        net = body()
        path = next(iter(adaptable_layers(net)))
        looks = statistics._measured(net, path, rows_of(rows), lambda z: z.clamp(-30, 30))
        with torch.no_grad():
            sums.append(sum(statistics.clipped(part, 2.0).sum(0) for part in statistics.unit_means(looks)))
    assert sums[0].isfinite().all()
    assert (sums[0] - sums[1]).norm() <= 2.0 * (1 + 1e-4)


def test_unit_of_several_rows_counts_as_one():
    x, units = inputs(64), torch.arange(64) // 4
    with torch.no_grad():
        net = body()
        path = next(iter(adaptable_layers(net)))
        (together,) = statistics.unit_means(statistics._measured(net, path, rows_of(x, units), lambda z: z))
        alone = torch.cat(
            list(statistics.unit_means(statistics._measured(net, path, rows_of(x), lambda z: z)))
        )
    assert torch.allclose(together, alone.view(16, 4, -1).mean(1), atol=1e-5)


def test_pure_noise_is_added_and_shrunk():
    net, x = body(), inputs(400, gain=1.0, offset=0.0)
    start = adabn_statistics(body(), [x])
    net.load_state_dict(start, strict=False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    release_statistics(net, rows_of(x), release_of(net, 400, 200.0), Noise.reproducible(0))
    after = net.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    loud = max(float((after[name] - before[name]).abs().max()) for name in moved)
    assert loud < 200 * math.sqrt(2 * 2 * 10) * 4 * 4 / 400  # the noise itself, without shrinkage


def test_layers_outside_the_release_are_unchanged():
    net, x = body(), inputs(50)
    first, second = adaptable_layers(net)
    before = adaptable_layers(net)[first].running_mean.clone()
    found = release_statistics(net, rows_of(x), release_of(net, 50, only=[second]), Silent())
    assert torch.equal(adaptable_layers(net)[first].running_mean, before)
    assert {name.rpartition(".")[0] for name in found} == {second}


def test_canaries_change_nothing_and_measure_clip_and_noise(tmp_path):
    net, other, x = body(), body(), inputs()
    its, silent = Canaries(300, 5, tmp_path), Silent()
    alone = release_statistics(net, rows_of(x), release_of(net, len(x), 2.0), Silent())
    beside = release_statistics(other, rows_of(x), release_of(net, len(x), 2.0), silent, its)
    for name, value in alone.items():  # lengths are summed in another order
        torch.testing.assert_close(beside[name], value, rtol=1e-4, atol=1e-5)
    found, member = load_file(tmp_path / "statistics.safetensors"), its.members()
    assert torch.equal(found["member"], member)
    torch.testing.assert_close(found["sums"], member.double().expand(8, -1))
    # The squared ratios of clip and noise of all sub-releases are those of one Gaussian.
    assert float((found["deviations"] ** -2).sum() ** -0.5) == pytest.approx(2.0)
    assert [shape for shape, _ in silent.asked] == [(n + 300,) for n in (6, 6, 4, 4, 6, 6, 4, 4)]
    release_statistics(body(), rows_of(x), release_of(net, len(x), 2.0), Noise(), its)
    found = load_file(tmp_path / "statistics.safetensors")
    noise = (found["sums"] - member.double()) / found["deviations"][:, None]
    assert float(noise.std()) == pytest.approx(1.0, abs=0.08)
