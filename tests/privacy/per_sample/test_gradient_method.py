"""Which gradient method is chosen for a model, and which models are refused."""

import pytest
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import nn

from fedtl.errors import ConfigError
from fedtl.privacy.per_sample import bookkeeping, layer_rules
from fedtl.privacy.per_sample.bookkeeping import Unsupported
from fedtl.privacy.per_sample.clipping import by_bookkeeping, by_hooks, choose_gradient_method, clipped
from tests.privacy.per_sample.nets import WAYS, Residual
from tests.problems import NETS, expected_sum, flat, one_at_a_time, problem, traces


@pytest.mark.parametrize("name", NETS)
def test_bookkeeping_is_chosen_for_these_models(name):
    net, losses = problem(name, dtype=torch.float32)
    before = traces(net)
    assert choose_gradient_method(net, torch.arange(6), losses, 0.1) is by_bookkeeping
    assert (
        choose_gradient_method(net, torch.arange(6), losses, 0.1, several_rows_a_unit=True) is by_bookkeeping
    )
    assert traces(net) == before


def test_row_that_rounds_differently_alone_is_accepted():
    """At the edge of a ReLU: with others the row is on the edge, alone rounding moves it to the other side."""
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    nn.init.zeros_(net[0].bias)
    x = torch.randn(6, 2)
    x[2] = 0

    def losses(model, rows):
        alone = 1e-7 if len(rows) == 1 else 0.0
        return F.cross_entropy(model(x[rows] + alone), rows % 3, reduction="none")

    assert choose_gradient_method(net, torch.arange(6), losses, 0.1) is by_bookkeeping


class Bent(nn.Module):
    """A layer whose parameters are used in an unusual way."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.one, self.two = kind, nn.Linear(5, 5), nn.Linear(5, 5)
        if kind == "own parameter":
            self.free = nn.Parameter(torch.ones(5))
        if kind == "own number":
            self.free = nn.Parameter(torch.tensor(2.0))
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
        return (x * self.free if self.kind in ("own parameter", "own number") else x).sum(1)


@pytest.mark.parametrize("kind", ["twice", "shared", "own parameter", "own number"])
def test_hooks_are_chosen_where_bookkeeping_is_wrong(kind):
    torch.manual_seed(0)
    net, x = Bent(kind), torch.randn(6, 5)
    assert choose_gradient_method(net, torch.arange(6), lambda model, rows: model(x[rows]), 0.1) is by_hooks
    with pytest.raises(Unsupported):  # by itself, not only where somebody compares
        by_bookkeeping(net, torch.arange(6), lambda model, rows: model(x[rows]))


@pytest.mark.parametrize("kind", ["functional", "beside", "places as rows"])
def test_model_without_correct_gradients_is_refused(kind):
    """Opacus gives such a parameter a wrong gradient or none, and often without an error."""
    torch.manual_seed(0)
    net, x = Bent(kind), torch.randn(6, 5)
    if kind == "places as rows":
        with pytest.raises(Unsupported, match="for each example"):
            by_bookkeeping(net, torch.arange(6), lambda model, rows: model(x[rows]))
    said = "one .Linear. does not" if kind == "places as rows" else "Opacus hooks"
    with pytest.raises(ConfigError, match=said):
        choose_gradient_method(net, torch.arange(6), lambda model, rows: model(x[rows]), 0.1)


def test_padding_that_opacus_treats_as_zeros():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(75, 1)
    ).double()
    x = torch.randn(6, 2, 5, 5, dtype=torch.float64)
    losses = lambda model, rows: model(x[rows])[:, 0]  # noqa: E731
    each = one_at_a_time(net, losses, 6)
    torch.testing.assert_close(by_hooks(net, torch.arange(6), losses)[0], each.norm(dim=1))
    assert choose_gradient_method(net, torch.arange(6), losses, 0.1) is by_bookkeeping
    assert (
        choose_gradient_method(net, torch.arange(6), losses, 0.1, several_rows_a_unit=True) is by_bookkeeping
    )


@pytest.mark.parametrize("option", [{"scale_grad_by_freq": True}, {"max_norm": 1.0}, {"sparse": True}])
def test_an_embedding_whose_gradient_depends_on_more_than_its_row_has_no_rule(option):
    net = nn.Sequential(nn.Embedding(4, 3, **option), nn.Flatten(), nn.Linear(6, 1))
    codes = torch.arange(12).reshape(6, 2) % 4
    with pytest.raises(Unsupported, match="no rule for Embedding"):
        by_bookkeeping(net, torch.arange(6), lambda model, rows: model(codes[rows])[:, 0])


def test_the_gradient_of_a_code_that_comes_again_is_summed_before_its_norm():
    """One row of two equal codes with opposite gradients has none; two different codes have a norm."""
    net, sign = nn.Embedding(4, 1), torch.tensor([1.0, -1.0])
    codes = torch.tensor([[1, 1], [1, 2]])
    norms, _ = by_bookkeeping(net, torch.arange(2), lambda model, rows: model(codes[rows])[..., 0] @ sign)
    torch.testing.assert_close(norms, torch.tensor([0.0, 2.0**0.5]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_blocks_that_work_in_place(way):
    """As the libraries' blocks do; Opacus' own hooks return views that must not be changed in place."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(2, 6, 3),
        nn.ReLU(inplace=True),
        Residual(nn.Conv2d(6, 6, 1)),
        Residual(nn.GroupNorm(2, 6)),
    )
    net = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(54, 3)).double()
    x, y = torch.randn(6, 2, 5, 5, dtype=torch.float64), torch.arange(6) % 3
    losses = lambda model, rows: F.cross_entropy(model(x[rows]), y[rows], reduction="none")  # noqa: E731
    norms, _ = WAYS[way](net, torch.arange(6), losses)
    torch.testing.assert_close(norms, one_at_a_time(net, losses, 6).norm(dim=1))
    units = torch.tensor([0, 1, 0, 1, 0, 2])
    found = flat(clipped(WAYS[way], net, torch.arange(6), losses, 0.1, units))
    torch.testing.assert_close(found, expected_sum(one_at_a_time(net, losses, 6, units), 0.1))


CONVOLUTIONS = {
    "wide": {},
    "narrow": {"in_channels": 3},
    "one channel": {"in_channels": 1},
    "strides": {"stride": (2, 1)},
    "dilation": {"dilation": (1, 2), "padding": 2},
    "wide groups": {"in_channels": 16, "groups": 2},
    "narrow groups": {"groups": 4},
    "depthwise": {"groups": 12},
    "kernel": {"kernel_size": (2, 3), "padding": (1, 0)},
    "all of them": {
        "in_channels": 24,
        "groups": 3,
        "stride": 2,
        "dilation": 2,
        "padding": 1,
        "kernel_size": (3, 2),
    },
    "the same": {"padding": "same", "kernel_size": (3, 5), "dilation": (2, 1)},
    "around": {"padding": 2, "padding_mode": "circular", "stride": 2},
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("memory", [0, 40, 1e9])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_of_every_kind(kind, memory, layout, monkeypatch):
    """By patches, by products and by convolutions with a group for each example."""
    monkeypatch.setattr(layer_rules, "FLOPS_PER_WRITE", memory)
    torch.manual_seed(0)
    settings = {"in_channels": 12, "out_channels": 12, "kernel_size": 3, "padding": 1} | CONVOLUTIONS[kind]
    net = nn.Sequential(nn.Conv2d(**settings)).double().to(memory_format=layout)
    x = torch.randn(5, settings["in_channels"], 7, 6, dtype=torch.float64).contiguous(memory_format=layout)
    losses = lambda model, rows: model(x[rows]).sin().flatten(1).sum(1)  # noqa: E731
    for units in (None, torch.tensor([7, 3, 7, 7, 5])):
        each = one_at_a_time(net, losses, 5, units)
        clip = float(each.norm(dim=1).median())
        for way in WAYS.values():
            norms = way(net, torch.arange(5), losses, units)[0]
            torch.testing.assert_close(norms, each.norm(dim=1), rtol=1e-7, atol=0)
            found = flat(clipped(way, net, torch.arange(5), losses, clip, units))
            torch.testing.assert_close(found, expected_sum(each, clip), rtol=1e-6, atol=1e-9)


def test_bookkeeping_that_differs_from_hooks_is_not_chosen(monkeypatch):
    net, losses = problem("mlp", dtype=torch.float32)
    assert choose_gradient_method(net, torch.arange(6), losses, 0.1) is by_bookkeeping
    honest = layer_rules.LAYERS[nn.Linear]

    def too_small(layer, x, g):
        weight, bias = honest(layer, x, 0.99 * g)
        return [weight, bias]

    monkeypatch.setitem(layer_rules.LAYERS, nn.Linear, too_small)
    assert choose_gradient_method(net, torch.arange(6), losses, 0.1) is by_hooks


def test_norm_of_one_short_record_counts(monkeypatch):
    """If only large gradients were compared, a record with a thousandth of the others' norm could get any norm."""
    net, losses = problem("mlp", dtype=torch.float32)

    def forgets(net, make):
        norms, weighted = honest(net, make)
        return norms.where(norms > norms.min(), 0.5 * norms), weighted

    honest = bookkeeping.gradients
    monkeypatch.setattr(bookkeeping, "gradients", forgets)
    assert (
        choose_gradient_method(net, torch.arange(6), losses, 1e9) is by_hooks
    )  # no clip, so that the sum is right


def test_hooks_that_differ_from_autograd_are_refused(monkeypatch):
    net, losses = problem("mlp", dtype=torch.float32)
    honest = GradSampleModule.GRAD_SAMPLERS[nn.Linear]
    monkeypatch.setitem(
        GradSampleModule.GRAD_SAMPLERS,
        nn.Linear,
        lambda layer, activations, g: {
            weight: 0.99 * its for weight, its in honest(layer, activations, g).items()
        },
    )
    with pytest.raises(ConfigError, match="differ from autograd"):
        choose_gradient_method(net, torch.arange(6), losses, 0.1)


def test_dropout_does_not_affect_the_choice():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 1)).train()
    x = torch.randn(6, 5)
    assert (
        choose_gradient_method(net, torch.arange(6), lambda model, rows: model(x[rows])[:, 0], 0.1)
        is by_bookkeeping
    )
    assert net[2].training
