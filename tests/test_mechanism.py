"""
DP-SGD against autograd on one example at a time, against Opacus' own clipping, and against its law; then the ways
in which Opacus' optimizer was measured to fail, each of which must not be here.
"""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from fedtl.errors import ConfigError
from fedtl.models.catalogue import blueprint
from fedtl.privacy import ghost
from fedtl.privacy.ghost import Unsupported
from fedtl.privacy.mechanism import Mechanism, by_book, by_hooks, clipped, poisson, proven
from fedtl.privacy.noise import Noise
from fedtl.silonorm import convert

WAYS = {"hooks": by_hooks, "book": by_book}


class Silent:
    """Noise that is none, to see what is beneath it; remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def add(self, total, std):
        self.asked.append((tuple(total.shape), std))
        return total


def builtin(name, shape):
    net = blueprint(name, shape, 0).net(3)
    net.body = convert(net.body)
    generator = torch.Generator().manual_seed(4)
    for label, buffer in net.named_buffers():  # statistics that are not 0 and 1
        values = torch.rand(buffer.shape, generator=generator)
        buffer.copy_(values + 0.5 if label.endswith("var") else values - 0.5)
    return net.train()


class Odd(nn.Module):
    """Groups, strides, dilation, padding by mode and by name, a sequence through Linear and LayerNorm, GroupNorm."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2)
        self.two = nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=6, bias=False)
        self.group = nn.GroupNorm(3, 6)
        self.three = nn.Conv2d(6, 4, (2, 3), padding=(0, 1))
        self.four = nn.Conv2d(4, 40, 1)
        self.mix, self.layer = nn.Linear(40, 30), nn.LayerNorm(30)
        self.last = nn.Linear(30, 3)

    def forward(self, x):
        x = self.three(self.group(self.two(self.one(x).relu()))).relu()
        x = self.layer(self.mix(self.four(x).flatten(2).transpose(1, 2))).relu()
        return self.last(x.mean(1))


def odd():
    torch.manual_seed(0)
    return Odd()


NETS = {
    "convnet": (lambda: builtin("convnet", (2, 8, 8)), (2, 8, 8)),
    "resnet20": (lambda: builtin("resnet20", (2, 16, 16)), (2, 16, 16)),
    "mlp": (lambda: builtin("mlp", (7,)), (7,)),
    "odd": (odd, (2, 9, 9)),
}


def problem(name, size=6, dtype=torch.float64):
    """A net, its losses by row, and the rows; some rows' gradients are shorter than the clip of 1 and some longer."""
    build, shape = NETS[name]
    net = build().to(dtype)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(size, *shape, generator=generator, dtype=dtype)
    y = torch.randint(3, (size,), generator=generator)
    scale = torch.logspace(-3, 0, size, dtype=dtype)
    return net, lambda model, rows: scale[rows] * F.cross_entropy(model(x[rows]), y[rows], reduction="none")


def one_at_a_time(net, losses, size, units=None):
    """The gradients [units, parameters], flat, by autograd alone."""
    moving = [weight for weight in net.parameters() if weight.requires_grad]
    each = []
    for row in range(size):
        found = torch.autograd.grad(
            losses(net, torch.tensor([row]))[0], moving, materialize_grads=True, allow_unused=True
        )
        each.append(torch.cat([part.flatten() for part in found]))
    each = torch.stack(each)
    if units is not None:
        each = torch.stack([each[units == unit].sum(0) for unit in units.unique()])
    return each


def expected_sum(each, clip):
    return sum(g * min(1.0, clip / (float(g.norm()) + 1e-6)) for g in each)


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


def sgd(net, **settings):
    return torch.optim.SGD(
        [weight for weight in net.parameters() if weight.requires_grad], **({"lr": 1.0} | settings)
    )


def vector(net):
    return flat(weight.detach().clone() for weight in net.parameters())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETS)
def test_the_clipped_sum_against_one_example_at_a_time(name, way, layout):
    """Also for channels-last images, which Opacus' own rule for Conv2d reads wrongly."""
    net, losses = problem(name)
    net = net.to(memory_format=layout)
    each = one_at_a_time(net, losses, 6)
    clip = float(each.norm(dim=1).median())
    norms, _ = WAYS[way](net, torch.arange(6), losses)
    found = flat(clipped(WAYS[way], net, torch.arange(6), losses, clip))
    torch.testing.assert_close(norms, each.norm(dim=1), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found, expected_sum(each, clip), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["convnet", "odd"])
@pytest.mark.parametrize("memory", [0, 1e9])
def test_book_keeping_by_gradients_or_by_products_is_the_same(name, memory, monkeypatch):
    net, losses = problem(name, size=7)
    whole = flat(clipped(by_book, net, torch.arange(7), losses, 0.1))
    monkeypatch.setattr(ghost, "MEMORY", memory)
    torch.testing.assert_close(flat(clipped(by_book, net, torch.arange(7), losses, 0.1)), whole)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["convnet", "resnet20", "odd"])
def test_book_keeping_equals_hooks_in_float32(name, layout):
    net, losses = problem(name, dtype=torch.float32)
    net = net.to(memory_format=layout)
    rows = torch.arange(6)
    one, other = (way(net, rows, losses)[0] for way in (by_book, by_hooks))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    one, other = (flat(clipped(way, net, rows, losses, 0.1)) for way in (by_book, by_hooks))
    assert (one - other).norm() < 1e-4 * other.norm()


def test_the_clipped_sum_against_opacus_own():
    net, losses = problem("convnet")
    reference = GradSampleModule(copy.deepcopy(net), loss_reduction="sum")
    optimizer = DPOptimizer(sgd(reference), noise_multiplier=1.0, max_grad_norm=0.1, expected_batch_size=6)
    with pytest.warns(UserWarning, match="Full backward hook"):
        losses(reference, torch.arange(6)).sum().backward()
    optimizer.clip_and_accumulate()
    wanted = flat(weight.summed_grad for weight in reference.parameters())
    for way in WAYS.values():
        found = flat(clipped(way, net, torch.arange(6), losses, 0.1))
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_frozen_parameters_take_no_part_in_the_norm(way):
    net, losses = problem("convnet")
    for weight in list(net.parameters())[:3]:
        weight.requires_grad_(False)
    each = one_at_a_time(net, losses, 6)
    torch.testing.assert_close(WAYS[way](net, torch.arange(6), losses)[0], each.norm(dim=1))
    found = flat(clipped(WAYS[way], net, torch.arange(6), losses, 0.1))
    torch.testing.assert_close(found, expected_sum(each, 0.1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("fast", [False, True])
def test_one_record_more_or_less_moves_the_sum_by_the_clip_at_most(fast):
    net, losses = problem("mlp", size=40)
    generator = torch.Generator().manual_seed(0)
    loud = lambda model, rows: 1000 * losses(model, rows)  # noqa: E731
    moves = []
    for _ in range(30):
        rows = torch.randperm(40, generator=generator)[: int(torch.randint(1, 20, (), generator=generator))]
        clip = float(10 ** torch.empty(1).uniform_(-3, 1, generator=generator))
        without = rows[torch.randperm(len(rows), generator=generator)][1:]
        with_it, less = (
            flat(clipped(WAYS["book" if fast else "hooks"], net, part, loud, clip))
            if len(part)
            else torch.zeros(1)
            for part in (rows, without)
        )
        moves.append(float((with_it - less).norm()) / clip)
    assert max(moves) < 1 + 1e-9
    assert max(moves) > 0.99  # the bound is reached, so the test can see it exceeded


def test_a_norm_from_products_that_cancel_is_never_too_small():
    """Two positions whose gradients nearly cancel: in float32 the products' sum is often 0 or below."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(500, 1, 64, generator=generator).expand(500, 2, 64)
    g = torch.randn(500, 1, 64, generator=generator) * torch.tensor([[1.0], [-1.0]])
    g = g + 10 ** torch.empty(500, 1, 1).uniform_(-6, 0, generator=generator) * torch.randn(
        g.shape, generator=generator
    )
    net = nn.Linear(64, 64, bias=False)
    norms, _ = by_book(net, torch.arange(500), lambda model, rows: (model(x[rows]) * g[rows]).sum((1, 2)))
    true = torch.einsum("nto,ntd->nod", g.double(), x.double()).flatten(1).norm(dim=1)
    assert (norms > true * (1 - 1e-6)).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_record_that_no_factor_can_bound_adds_nothing(way, bad):
    net, losses = problem("convnet")
    broken = lambda model, rows: torch.where(rows == 2, bad, 1.0) * losses(model, rows)  # noqa: E731
    found = flat(clipped(WAYS[way], net, torch.arange(6), broken, 0.1))
    others = flat(clipped(WAYS[way], net, torch.tensor([0, 1, 3, 4, 5]), losses, 0.1))
    torch.testing.assert_close(found, others)
    assert not flat(clipped(WAYS[way], net, torch.tensor([2]), broken, 0.1)).any()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("microbatch", [0, 1, 4, 100])
def test_a_step_is_the_sum_over_the_expected_batch_whatever_the_parts(fast, microbatch):
    net, losses = problem("convnet")
    wanted = vector(net) - 0.5 * expected_sum(one_at_a_time(net, losses, 6), 0.1) / 17.5
    silent = Silent()
    mechanism = Mechanism(net, sgd(net, lr=0.5), 0.1, 3.0, 17.5, silent, fast, microbatch)
    mechanism.step(torch.arange(6), losses)
    torch.testing.assert_close(vector(net), wanted, rtol=1e-9, atol=1e-12)
    count = sum(weight.numel() for weight in net.parameters())
    assert silent.asked == [((count,), pytest.approx(0.3))]  # once, and for each coordinate


@pytest.mark.parametrize("microbatch", [0, 1, 3])
def test_units_are_summed_before_the_clip(microbatch):
    net, losses = problem("mlp", size=8)
    units = torch.tensor([5, 2, 5, 9, 2, 5, 7, 5])
    each = one_at_a_time(net, losses, 8, units)
    wanted = vector(net) - expected_sum(each, 0.01)
    Mechanism(net, sgd(net), 0.01, 1.0, 1.0, Silent(), microbatch=microbatch).step(
        torch.arange(8), losses, units
    )
    torch.testing.assert_close(vector(net), wanted, rtol=1e-9, atol=1e-12)


def test_units_with_book_keeping_are_refused():
    net, losses = problem("mlp")
    with pytest.raises(ConfigError, match="fast = False"):
        Mechanism(net, sgd(net), 1.0, 1.0, 1.0, Silent(), fast=True).step(
            torch.arange(2), losses, torch.tensor([0, 0])
        )


class Line(nn.Module):
    """One layer, whose example i has the gradient x_i at every weight."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 1, bias=False).double()

    def forward(self, x):
        return self.layer(x)[:, 0]


@pytest.mark.parametrize("fast", [False, True])
def test_the_law_of_a_release(fast):
    """10,000 coordinates in each of 20 releases: their mean is the clipped sum, their variance (sigma clip)^2."""
    width, clip, sigma, batch = 10_000, 2.0, 1.5, 4.0
    net, x = Line(width), torch.full((3, width), 1e-2, dtype=torch.float64)
    x[2] *= 100  # norms 1, 1 and 100
    wanted = (0.01 + 0.01 + clip / 100) * torch.ones(width)
    noise = Noise.reproducible(11)
    errors = []
    for _ in range(20):
        before = vector(net)
        Mechanism(net, sgd(net), clip, sigma, batch, noise, fast).step(
            torch.arange(3), lambda model, rows: model(x[rows])
        )
        errors.append((before - vector(net)) * batch - wanted)
    errors = torch.stack(errors) / (sigma * clip)
    n = errors.numel()
    assert abs(float(errors.mean())) < 4 / math.sqrt(n)
    assert abs(float(errors.var()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float(errors.mean(0).var()) * 20 - 1) < 4 * math.sqrt(2 / width)  # releases are independent


@pytest.mark.parametrize("fast", [False, True])
def test_an_empty_batch_is_a_noisy_step(fast):
    net, losses = problem("convnet", dtype=torch.float32)
    before = vector(net)
    Mechanism(net, sgd(net), 2.0, 1.5, 3.0, Noise.reproducible(0), fast).step(torch.arange(0), losses)
    moved = vector(net) - before
    assert abs(float(moved.std()) / (2.0 * 1.5 / 3.0) - 1) < 4 / math.sqrt(2 * len(moved))


def test_momentum_and_decay_come_after_the_noise():
    net, losses = problem("mlp")
    weights, velocity, noise = vector(net), 0.0, Noise.reproducible(1)
    optimizer = sgd(net, lr=0.1, momentum=0.9, weight_decay=0.01)
    mechanism = Mechanism(net, optimizer, 1.0, 0.5, 6.0, Noise.reproducible(1))
    for _ in range(3):
        clean = expected_sum(one_at_a_time(net, losses, 6), 1.0)
        drawn = noise.normal(weights.shape, 0.5)
        velocity = 0.9 * velocity + (clean + drawn) / 6.0 + 0.01 * weights
        weights = weights - 0.1 * velocity
        mechanism.step(torch.arange(6), losses)
        torch.testing.assert_close(vector(net), weights, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("positions", "width", "out"), [(2, 4608, 512), (4, 4608, 512), (2, 768, 768)])
def test_products_that_cancel_let_no_record_exceed_the_clip(positions, width, out):
    """Nearly the same input everywhere, and gradients of opposite signs: in single precision 1.1 to 1.7 clips left."""
    sign = torch.ones(positions, 1)
    sign[positions // 2 :] = -1
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        size, slope, eta = torch.rand(3, generator=generator)
        net = nn.Sequential(nn.Linear(width, out, bias=False))
        row = (size + 0.5).expand(1, positions, width).clone()
        row[0, 0] *= 1 + 10 ** (-3.6 + 1.2 * eta)
        losses = lambda model, x: (slope + 0.5) * (model(x) * sign).sum((1, 2))  # noqa: B023, E731
        assert clipped(by_book, net, row, losses, 1e-2)[0].double().norm() <= 1e-2 * (1 + 1e-3)


class Residual(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        out = self.layer(x)
        out += x
        return out


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Linear(6, 6), nn.ReLU(inplace=True)),
        (Residual(nn.Linear(6, 6)),),
        (nn.Linear(6, 6), Residual(nn.Linear(6, 6))),
        (nn.Linear(6, 6).requires_grad_(False), Residual(nn.Linear(6, 6))),
    ],
)
def test_an_output_that_is_a_view_and_is_changed_in_place(layers):
    """A Linear with a bias on sequences gives one; a hook on it would be lost."""
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(30, 3)).double()
    x, y = torch.randn(4, 5, 6, dtype=torch.float64), torch.arange(4) % 3
    losses = lambda model, rows: F.cross_entropy(model(x[rows]), y[rows], reduction="none")  # noqa: E731
    each = one_at_a_time(net, losses, 4)
    norms, _ = by_book(net, torch.arange(4), losses)
    torch.testing.assert_close(norms, each.norm(dim=1), rtol=1e-6, atol=1e-9)


def test_a_layer_that_gets_its_input_by_name_is_left_to_others():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return self.layer(input=x)

    with pytest.raises(Unsupported, match="by name"):
        by_book(Named(), torch.arange(2), lambda model, rows: model(torch.randn(2, 6)).sum(1))


def test_a_row_that_rounds_otherwise_alone_is_no_reason_to_refuse():
    """Beside a ReLU's edge: together with others the row is on it, alone it is a rounding to the other side."""
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    nn.init.zeros_(net[0].bias)
    x = torch.randn(6, 2)
    x[2] = 0

    def losses(model, rows):
        alone = 1e-7 if len(rows) == 1 else 0.0
        return F.cross_entropy(model(x[rows] + alone), rows % 3, reduction="none")

    assert proven(net, torch.arange(6), losses, 0.1)


def test_what_sees_weights_alone_acts_between_noise_and_optimizer():
    net, losses = problem("mlp")
    before, seen = vector(net), []

    def beside():
        seen.append(flat(weight.grad.clone() for weight in net.parameters()))
        for weight in net.parameters():
            weight.grad += 2.0

    Mechanism(net, sgd(net), 1.0, 1.0, 1.0, Noise(), fast=True).step(torch.arange(6), losses, beside=beside)
    torch.testing.assert_close(vector(net), before - seen[0] - 2.0)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_fused_optimizer_on_channels_last_moves_as_a_plain_one(optimizer):
    nets = []
    for fused, layout in ((False, torch.contiguous_format), (True, torch.channels_last)):
        net, losses = problem("convnet", dtype=torch.float32)
        net = net.to(memory_format=layout)
        rule = getattr(torch.optim, optimizer)(net.parameters(), lr=0.01, fused=fused)
        mechanism = Mechanism(net, rule, 0.1, 1.0, 6.0, Noise.reproducible(2), fast=True)
        for _ in range(2):
            mechanism.step(torch.arange(6), losses)
        nets.append(vector(net))
    torch.testing.assert_close(*nets, rtol=1e-4, atol=1e-5)


def traces(net):
    """Whatever is attached to modules and parameters."""
    modules = {path: sorted(vars(module)) for path, module in net.named_modules()}
    hooks = [vars(module)[name] for module in net.modules() for name in vars(module) if "hooks" in name]
    weights = {name: sorted(vars(weight)) for name, weight in net.named_parameters()}
    grads = [weight.grad is None and weight.requires_grad for weight in net.parameters()]
    return (
        modules,
        [len(found) for found in hooks if found is not None and not isinstance(found, bool)],
        weights,
        grads,
    )


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("way", ["a step", "an error in the losses", "an error in the backward pass"])
def test_nothing_is_left_behind(fast, way):
    net, losses = problem("convnet")
    before, size = traces(net), len(pickle.dumps(net))
    mechanism = Mechanism(net, sgd(net), 1.0, 1.0, 6.0, Noise(), fast, microbatch=4)

    def failing(model, rows):
        values = losses(model, rows)
        if way == "an error in the backward pass":
            values.register_hook(lambda grad: 1 / 0)
        elif way == "an error in the losses" and 5 in rows:
            raise ZeroDivisionError
        return values

    if way == "a step":
        mechanism.step(torch.arange(6), losses)
    else:
        with pytest.raises(ZeroDivisionError):
            mechanism.step(torch.arange(6), failing)
    assert traces(net) == before
    assert len(pickle.dumps(net)) == size


def test_nothing_is_left_behind_where_opacus_refuses():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = traces(net)
    with pytest.raises(NotImplementedError, match="buffers"):
        by_hooks(net, torch.arange(3), lambda model, rows: model(torch.randn(3, 4)).sum(1))
    assert traces(net) == before


@pytest.mark.parametrize("name", NETS)
def test_what_is_proven_fast(name):
    net, losses = problem(name, dtype=torch.float32)
    before = traces(net)
    assert proven(net, torch.arange(6), losses, 0.1)
    assert not proven(net, torch.arange(6), losses, 0.1, units=True)
    assert traces(net) == before


class Bent(nn.Module):
    """A layer whose parameters are used in another way."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.one, self.two = kind, nn.Linear(5, 5), nn.Linear(5, 5)
        if kind == "own parameter":
            self.free = nn.Parameter(torch.ones(5))
        if kind == "shared":
            self.two.weight = self.one.weight

    def forward(self, x):
        if self.kind == "twice":
            return self.one(self.one(x).relu()).sum(1)
        if self.kind == "functional":
            return F.linear(self.one(x).relu(), self.two.weight).sum(1)
        if self.kind == "places as rows":
            return self.one(x.repeat_interleave(3, 0)).relu().unflatten(0, (-1, 3)).sum((1, 2))
        if self.kind == "beside":
            return self.two(self.one(x)).sum(1) + 0.1 * self.one.weight.sum()
        x = self.two(self.one(x).relu())
        return (x * self.free if self.kind == "own parameter" else x).sum(1)


@pytest.mark.parametrize("kind", ["twice", "shared", "own parameter"])
def test_what_only_hooks_can_do(kind):
    torch.manual_seed(0)
    net, x = Bent(kind), torch.randn(6, 5)
    assert not proven(net, torch.arange(6), lambda model, rows: model(x[rows]), 0.1)
    with pytest.raises(Unsupported):  # by itself, not only where somebody compares
        by_book(net, torch.arange(6), lambda model, rows: model(x[rows]))


@pytest.mark.parametrize("kind", ["functional", "beside", "places as rows"])
def test_what_nobody_can_do_is_refused(kind):
    """Opacus gives such a parameter a gradient that is wrong or none, and often does not say so."""
    torch.manual_seed(0)
    net, x = Bent(kind), torch.randn(6, 5)
    if kind == "places as rows":
        with pytest.raises(Unsupported, match="one row an example"):
            by_book(net, torch.arange(6), lambda model, rows: model(x[rows]))
    with pytest.raises(ConfigError, match="no sound per-example gradients"):
        proven(net, torch.arange(6), lambda model, rows: model(x[rows]), 0.1)


def test_padding_that_opacus_takes_for_zeros():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(75, 1)
    )
    x = torch.randn(6, 2, 5, 5)
    losses = lambda model, rows: model(x[rows])[:, 0]  # noqa: E731
    assert proven(net, torch.arange(6), losses, 0.1)
    with pytest.raises(ConfigError, match="other gradients"):
        proven(net, torch.arange(6), losses, 0.1, units=True)


def test_what_works_in_place_is_for_book_keeping_alone():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(5, 9), nn.ReLU(inplace=True), nn.Linear(9, 1)), torch.randn(6, 5)
    losses = lambda model, rows: model(x[rows])[:, 0]  # noqa: E731
    assert proven(net, torch.arange(6), losses, 0.1)
    with pytest.raises(ConfigError, match="inplace"):
        proven(net, torch.arange(6), losses, 0.1, units=True)


def test_an_input_that_is_changed_after_its_use_is_seen():
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 1)

        def forward(self, x):
            x = self.one(x) * 1
            y = self.two(x)
            x += 1
            return (y + x.sum(1, keepdim=True))[:, 0]

    net, x = Changes(), torch.randn(6, 5)
    with pytest.raises(Unsupported, match="in place"):
        by_book(net, torch.arange(6), lambda model, rows: model(x[rows]))
    assert all(weight.requires_grad for weight in net.parameters())


def test_dropout_does_not_hinder_the_proof():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 1)).train()
    x = torch.randn(6, 5)
    assert proven(net, torch.arange(6), lambda model, rows: model(x[rows])[:, 0], 0.1)
    assert net[2].training


def test_a_parameter_that_the_losses_do_not_use_gets_noise_alone():
    torch.manual_seed(0)
    net, x = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 500)]), torch.randn(4, 3)
    for fast in (False, True):
        before = net[1].weight.detach().clone()
        Mechanism(net, sgd(net), 1.0, 1.0, 1.0, Noise.reproducible(0), fast).step(
            torch.arange(4), lambda model, rows: model[0](x[rows])[:, 0]
        )
        assert abs(float((net[1].weight.detach() - before).std()) - 1) < 0.1


def test_poisson_sampling():
    noise = Noise.reproducible(3)
    counts = torch.zeros(200)
    sizes = []
    for _ in range(1000):
        rows = poisson(200, 0.1, noise)
        assert rows.dtype == torch.int64
        counts[rows] += 1
        sizes.append(len(rows))
    assert abs(counts.mean() - 100) < 4 * math.sqrt(1000 * 0.09 / 200)
    assert abs(float(counts.var()) / 90 - 1) < 4 * math.sqrt(2 / 200)
    assert abs(float(torch.tensor(sizes, dtype=torch.float64).var()) / 18 - 1) < 4 * math.sqrt(2 / 1000)
    assert poisson(5, 1.0, noise).tolist() == [0, 1, 2, 3, 4]
    assert poisson(5, 0.0, noise).tolist() == poisson(0, 0.5, noise).tolist() == []


@pytest.mark.parametrize("name", ["clip", "noise_multiplier", "expected_batch"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_numbers_that_protect_nobody(name, value):
    """Footgun 5: Opacus takes a noise multiplier of 0."""
    net, _ = problem("mlp")
    numbers = {"clip": 1.0, "noise_multiplier": 1.0, "expected_batch": 4.0} | {name: value}
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        Mechanism(net, sgd(net), **numbers, noise=Noise())


def test_losses_that_are_not_one_a_row():
    net, losses = problem("mlp")
    for way in WAYS.values():
        with pytest.raises(ConfigError, match="6 rows have losses of shape"):
            clipped(way, net, torch.arange(6), lambda model, rows: losses(model, rows).mean(), 1.0)


@pytest.mark.parametrize("fast", [False, True])
def test_a_batch_broken_off_is_not_finished_by_the_next(fast):
    """Footgun 1: Opacus keeps the sum of a batch that broke off, and adds the next batch to it under one noise."""
    net, losses = problem("mlp")
    twin = copy.deepcopy(net)

    def breaks_off(model, rows):
        if 5 in rows:
            raise KeyboardInterrupt
        return losses(model, rows)

    mechanism = Mechanism(net, sgd(net), 1.0, 1.0, 6.0, Silent(), fast, microbatch=2)
    before = vector(net)
    with pytest.raises(KeyboardInterrupt):
        mechanism.step(torch.arange(6), breaks_off)
    assert torch.equal(vector(net), before)
    mechanism.step(torch.arange(4), losses)
    Mechanism(twin, sgd(twin), 1.0, 1.0, 6.0, Silent(), fast, microbatch=2).step(torch.arange(4), losses)
    assert torch.equal(vector(net), vector(twin))


def test_seeds_do_not_repeat_the_noise():
    """Footgun 2: with Opacus, torch.manual_seed before two rounds gives both the same noise and the same batches."""
    released, drawn = [], []
    for _ in range(2):
        net, losses = problem("mlp", dtype=torch.float32)
        torch.manual_seed(0)
        Mechanism(net, sgd(net), 1.0, 1.0, 1.0, Noise()).step(torch.arange(6), losses)
        released.append(vector(net))
        drawn.append(poisson(1000, 0.5, Noise()))
    assert (released[0] - released[1]).std() > 1
    assert drawn[0].tolist() != drawn[1].tolist()


def test_a_parameter_beside_the_optimizer_is_refused():
    """Footgun 3: with Opacus its raw gradient stays, and another optimizer may use it."""
    net, _ = problem("mlp")
    partly = torch.optim.SGD(net.body.parameters(), lr=1.0)
    with pytest.raises(ConfigError, match=r"head\.bias"):
        Mechanism(net, partly, 1.0, 1.0, 1.0, Noise())
    other = torch.optim.SGD([*net.parameters(), nn.Parameter(torch.ones(1))], lr=1.0)
    with pytest.raises(ConfigError, match="no more and no less"):
        Mechanism(net, other, 1.0, 1.0, 1.0, Noise())
    everything = torch.optim.SGD(net.parameters(), lr=1.0)
    net.head.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"head\.weight"):
        Mechanism(net, everything, 1.0, 1.0, 1.0, Noise())


@pytest.mark.parametrize("fast", [False, True])
def test_no_raw_gradient_is_ever_where_the_optimizer_looks(fast):
    """Footgun 4: with Opacus, .grad is the batch's raw mean between backward and step, and .grad_sample stays after."""
    net, losses = problem("mlp")
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, 1e9)  # somebody else's
    before, seen = vector(net), []
    wanted = expected_sum(one_at_a_time(net, losses, 6), 1.0)
    Mechanism(net, sgd(net), 1.0, 1.0, 1.0, Silent(), fast).step(
        torch.arange(6),
        losses,
        beside=lambda: seen.append(flat(weight.grad.clone() for weight in net.parameters())),
    )
    torch.testing.assert_close(seen[0], wanted)
    torch.testing.assert_close(before - vector(net), wanted)
    assert all(weight.grad is None and not vars(weight) for weight in net.parameters())


def test_opacus_is_loaded_where_a_net_needs_it_alone_and_leaves_logging_as_it_is():
    code = (
        "import logging, sys, torch\n"
        "from torch import nn\n"
        "from fedtl.privacy import mechanism\n"
        "rows, x = torch.arange(4), torch.randn(4, 1, 3)\n"
        "losses = lambda net, rows: net(x[rows]).flatten(1).sum(1)\n"
        "assert mechanism.proven(nn.Linear(3, 2), rows, losses, 1.0)\n"
        "assert 'opacus' not in sys.modules\n"
        "assert not mechanism.proven(nn.Conv1d(1, 2, 3), rows, losses, 1.0)\n"
        "assert 'opacus' in sys.modules and not logging.root.handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
