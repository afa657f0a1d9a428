"""
Every dependence between records that Opacus accepts is refused; independent records are accepted, and the net is
unchanged.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedtl.errors import ConfigError
from fedtl.methods.coral import Coral
from fedtl.methods.losses import Batch, Computed, Forward, Pass, PerExample, TaskLoss, mean_loss
from fedtl.methods.mmd import MaximumMeanDiscrepancy
from fedtl.models.dp_norm import SiloNorm
from fedtl.privacy.per_sample.independence import (
    check_examples_independent,
    check_vectors_independent,
    without_dropout,
)


class FromSize(nn.Module):
    """Centres its features in batches of at least ``size`` records."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x - x.mean(0) if len(x) >= self.size else x


class Subclass(nn.BatchNorm2d):
    """A subclass, which checks of the exact type miss."""


class ByHand(nn.Module):
    """Batch statistics without a buffer and of no known type; active in evaluation mode too."""

    def forward(self, x):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt()


class LooksBack(nn.Module):
    """Each record depends on the one before it, so the first depends on none."""

    def forward(self, x):
        return torch.cat([x[:1], x[1:] + 0.1 * x[:-1]])


class FirstSeesThird(nn.Module):
    """Only one record depends on only one other."""

    def forward(self, x):
        return torch.cat([x[:1] + 0.1 * x[2:3], x[1:]]) if len(x) > 2 else x


class Counts(nn.Module):
    """Changes nothing but a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += x.mean()
        return x


class DropsByFunction(nn.Module):
    """Has a weight, and calls dropout as functions, as attention does."""

    def __init__(self, other=False):
        super().__init__()
        self.mix, self.other = nn.Linear(6, 6), other

    def forward(self, x):
        mixed = self.mix(x) + (0.1 * x.mean(0) if self.other else 0)
        dropped = F.dropout(mixed, 0.5, self.training)
        return F.scaled_dot_product_attention(dropped, dropped, dropped, dropout_p=0.5 * self.training)


def frozen(module):
    return module.requires_grad_(False)


def net(middle):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), middle, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    )


def batch(size=8):
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(3, (size,), generator=generator)
    domain = torch.arange(size) % 2.0
    return Batch(torch.randn(size, 1, 8, 8, generator=generator), y, domain)


def task(model, rows):
    return F.cross_entropy(model(rows.x), rows.y, reduction="none")


REFUSED = {
    "batchnorm": (nn.BatchNorm2d(4), "1.running_mean"),
    "no scale": (nn.BatchNorm2d(4, affine=False), "1.running_mean"),
    "frozen scale": (frozen(nn.BatchNorm2d(4)), "1.running_mean"),
    "frozen, now in eval": (frozen(nn.BatchNorm2d(4)).eval(), "1.running_mean"),
    "no statistics": (nn.BatchNorm2d(4, track_running_stats=False), r"1 \(BatchNorm2d\)"),
    "subclass": (Subclass(4), "1.running_mean"),
    "subclass, no statistics": (Subclass(4, track_running_stats=False), r"1 \(Subclass\)"),
    "by hand": (ByHand(), r"1 \(ByHand\)"),
    "looks back": (LooksBack(), r"1 \(LooksBack\)"),
    "first sees third": (FirstSeesThird(), r"1 \(FirstSeesThird\)"),
    "counts": (Counts(), "1.seen"),
    "from a size on": (FromSize(9), "size of its batch"),
    "dropout by function, and a mean": (DropsByFunction(other=True), "depend on other records"),
}
ACCEPTED = {
    "nothing": nn.Identity(),
    "groupnorm": nn.GroupNorm(2, 4),
    "layernorm": nn.LayerNorm([4, 6, 6]),
    "instancenorm": nn.InstanceNorm2d(4),
    "silonorm": SiloNorm(nn.BatchNorm2d(4)),
    "dropout": nn.Dropout(0.5),
    "dropout by function": DropsByFunction(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_in_which_records_depend_on_each_other_are_refused(name):
    middle, where = REFUSED[name]
    with pytest.raises(ConfigError, match=where):
        check_examples_independent(net(middle), batch(), task)


@pytest.mark.parametrize("name", ACCEPTED)
def test_layers_in_which_records_are_independent_are_accepted(name):
    check_examples_independent(net(ACCEPTED[name]), batch(), task)


def test_functions_of_dropout_change_nothing_where_dropout_is_off():
    layer, x = DropsByFunction(), torch.randn(2, 3, 6, 6)
    expected = layer.eval()(x)
    with without_dropout(layer.train()):
        torch.testing.assert_close(layer(x), expected)
    assert not torch.allclose(layer(x), expected)


def with_term(term):
    def losses(model, rows):
        features = model[:-1](rows.x)
        out = Forward(rows, Computed(Pass(features, model[-1](features))), 0.5)
        extra = term.losses(out) if isinstance(term, PerExample) else term.loss(out)
        return task(model, rows) + extra

    return losses


LOSSES = {
    "coral": with_term(Coral(100.0)),
    "mmd": with_term(MaximumMeanDiscrepancy(1.0)),
    "contrast": lambda model, rows: -F.log_softmax(model(rows.x) @ model(rows.x).T, 1).diagonal(),
    "weighted by the batch's classes": lambda model, rows: (
        task(model, rows) / torch.bincount(rows.y, minlength=3)[rows.y]
    ),
    "mean of the batch": lambda model, rows: task(model, rows) / len(rows.y),
    "mean of a term": lambda model, rows: task(model, rows).mean().expand(len(rows.y)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_in_which_records_depend_on_each_other_are_refused(name):
    with pytest.raises(ConfigError, match="loss depends on"):
        check_examples_independent(net(nn.Identity()), batch(), LOSSES[name])


class Gate(nn.Module):
    """The identity, whose gradient has a factor from the whole batch."""

    def forward(self, x):
        factor = 0.05 + (5 * x.detach().flatten(1)[:, 0].mean()).sigmoid()
        return factor * x + ((1 - factor) * x).detach()


def test_backward_pass_in_which_records_depend_on_each_other_is_refused():
    with pytest.raises(ConfigError, match="gradient depends"):
        check_examples_independent(net(Gate()), batch(), task)


def test_losses_in_which_records_are_independent_are_accepted():
    check_examples_independent(net(nn.Identity()), batch(), with_term(TaskLoss()))


def test_small_loss_with_the_rounding_of_large_scores_is_accepted():
    """A record that is nearly correct, with scores of 500, which round by 3e-5 each time. It used to be refused."""
    given = batch()
    scores = torch.full((8, 3), 493.0)
    scores[torch.arange(8), given.y] = 500.0

    def losses(model, rows):
        rounding = 2e-4 * F.one_hot(rows.y, 3) if len(rows.y) == 1 else 0.0
        return F.cross_entropy(model(rows.x) + rounding, rows.y, reduction="none")

    same = nn.Sequential(nn.Linear(3, 3))
    with torch.no_grad():
        same[0].weight.copy_(torch.eye(3))
        same[0].bias.zero_()
        rows = Batch(scores, given.y, given.domain)
        together, alone = losses(same, rows), losses(same, Batch(scores[:1], given.y[:1], given.domain[:1]))
    assert abs(together[0] - alone[0]) > 1e-4 * together[0]
    check_examples_independent(same, rows, losses)


def test_one_loss_for_the_whole_batch_is_refused():
    def losses(model, rows):
        return mean_loss(TaskLoss(), Forward(rows, Computed(Pass(rows.x.flatten(1), model(rows.x)))))

    with pytest.raises(ConfigError, match="8 losses"):
        check_examples_independent(net(nn.Identity()), batch(), losses)


def test_regression_losses():
    rows = Batch(torch.randn(6, 5), torch.randn(6), torch.zeros(6))
    line = nn.Sequential(nn.Linear(5, 1))

    def square(model, part):
        return (model(part.x)[:, 0] - part.y).pow(2)

    check_examples_independent(line, rows, square)
    with pytest.raises(ConfigError, match="loss depends"):
        check_examples_independent(line, rows, lambda model, part: square(model, part) / part.y.std())


@pytest.mark.parametrize("middle", [nn.Dropout(0.5), nn.BatchNorm2d(4)])
def test_the_net_is_unchanged(middle):
    model = net(middle).train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    try:
        check_examples_independent(model, batch(), task)
    except ConfigError:
        assert isinstance(middle, nn.BatchNorm2d)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())


# Vectors


def vectors_with(size, dependence):
    """Return vectors of which half of the entries are ``size`` times as large as the others; a small one depends on other rows."""

    def vectors(rows):
        x = rows.x.flatten(1)
        small = x[:, 32:].clone()
        small[:, 3] += dependence * small[:, 3].mean()
        return torch.cat([size * x[:, :32], small], 1)

    return vectors


def test_vectors_that_depend_on_others_from_a_size_on_are_refused():
    def vectors(rows):
        return FromSize(100)(rows.x.flatten(1))

    with pytest.raises(ConfigError, match="size of its batch"):
        check_vectors_independent(batch(), vectors, 3, "it")


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_an_entry_that_depends_on_other_records_is_found_beside_larger_ones(size):
    check_vectors_independent(batch(), vectors_with(size, 0), 3, "it")
    with pytest.raises(ConfigError, match="other records"):
        check_vectors_independent(batch(), vectors_with(size, 0.5), 3, "it")


def test_a_record_of_large_entries_does_not_hide_the_others():
    def vectors(rows):
        x = rows.x.flatten(1)
        large = torch.where(torch.arange(len(x)) == 5, 1e6, 1.0)[:, None]
        return large * x + 0.01 * x.flip(0)

    with pytest.raises(ConfigError, match="other records"):
        check_vectors_independent(batch(), vectors, 3, "it")


def test_the_size_of_the_batch_is_found_in_a_small_entry():
    def vectors(rows):
        x = rows.x.flatten(1)
        return torch.cat([1e3 * x, x.new_full((len(x), 1), 1 / len(x))], 1)

    with pytest.raises(ConfigError, match="the size"):
        check_vectors_independent(batch(), vectors, 3, "it")


def test_zeros_and_values_that_are_not_finite_stay():
    def vectors(rows):
        x = rows.x.flatten(1).clone()
        x[:, 0], x[:, 1], x[:, 2] = 0, torch.inf, torch.nan
        return x

    check_vectors_independent(batch(), vectors, 3, "it")
