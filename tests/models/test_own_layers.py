"""Layers that an author wrote: what they keep of the rows that they saw is a statistic, whatever it is called."""

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.norms import statistics_distance
from fedtl.models.registry import custom_spec
from fedtl.models.roles import Role, roles
from fedtl.models.split import split_at_classifier


class OwnNorm(nn.Module):
    """As in a textbook: normalises by the batch in training, and by running averages of these names afterwards."""

    def __init__(self, mean, spread):
        super().__init__()
        self.names = mean, spread
        self.gamma, self.beta = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer(mean, torch.zeros(8))
        self.register_buffer(spread, torch.ones(8))

    def forward(self, x):
        kept = [getattr(self, name) for name in self.names]
        if not self.training:
            return (x - kept[0]) / (kept[1] + 1e-5) * self.gamma + self.beta
        now = x.mean(0), x.std(0, correction=0)
        with torch.no_grad():
            for one, value in zip(kept, now, strict=True):
                one.lerp_(value, 0.1)
        return (x - now[0]) / (now[1] + 1e-5) * self.gamma + self.beta


class Centred(nn.Module):
    """Keeps the mean of its features beside layers of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 2)
        self.register_buffer("prototype", torch.zeros(8))

    def forward(self, x):
        features = self.first(x)
        if self.training:
            self.prototype.lerp_(features.detach().mean(0), 0.1)
        return self.last(features - self.prototype)


class ByBatch(nn.Module):
    """Centres its features in batches of at least ``size`` rows."""

    def __init__(self, size):
        super().__init__()
        self.size, self.first, self.last = size, nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, x):
        features = self.first(x)
        return self.last(features - features.mean(0) if len(x) >= self.size else features)


class NumpyNoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, x):
        features = self.first(x)
        return self.last(features + np.random.normal() if self.training else features)


def roles_of(model, classifier):
    return roles(split_at_classifier(model, classifier, (2,), 0).net(2))


@pytest.mark.parametrize(
    "names", [("moving_mean", "moving_std"), ("running_mean", "running_std"), ("running_mean", "running_var")]
)
def test_what_a_layer_keeps_of_its_inputs_is_a_statistic(names):
    model = nn.Sequential(nn.Linear(2, 8), OwnNorm(*names), nn.ReLU(), nn.Linear(8, 2))
    found = roles_of(model, "3")
    assert [found[f"body.1.{name}"] for name in names] == [Role.STATS, Role.STATS]
    assert found["body.1.gamma"] is found["body.1.beta"] is Role.NORM
    assert found["body.0.weight"] is Role.BODY


def test_a_statistic_beside_other_layers_makes_no_norm_of_them():
    found = roles_of(Centred(), "last")
    assert found["body.prototype"] is Role.STATS
    assert found["body.first.weight"] is Role.BODY


def test_what_follows_from_weights_alone_is_no_statistic():
    layer = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(2, 8))
    found = roles_of(nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 2)), "2")
    assert Role.STATS not in found.values()


def test_the_check_leaves_no_trace_in_what_a_layer_keeps():
    body = split_at_classifier(Centred(), "last", (2,), 0).body
    assert not body.prototype.any()


def test_a_distance_is_of_layers_with_mean_and_variance():
    state = {"a.running_mean": torch.ones(3), "a.running_std": torch.ones(3)}
    assert statistics_distance(state, state) is None


class AlteredBeyond(nn.Module):
    """Doubles the features of the rows after the first twelve; no branch shows it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, x):
        features = self.first(x)
        beyond = (torch.arange(len(x)) >= 12)[:, None]
        return self.last(torch.where(beyond, 2 * features, features))


class InFours(nn.Module):
    """Takes its rows four at a time, so that some sizes of a batch fail."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, x):
        whole = x if len(x) < 9 else x.view(4, -1, 2).flatten(0, 1)
        return self.last(self.first(whole))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (ByBatch(3), "other rows"),
        (ByBatch(9), "among 31 rows than among 8"),
        (ByBatch(200), "among 256 rows"),
        (AlteredBeyond(), "among 31 rows"),
        (InFours(), "and not of 31: "),
    ],
)
def test_a_model_whose_scores_depend_on_the_size_of_a_batch_is_refused(model, reason):
    with pytest.raises(ModelError, match=reason):
        split_at_classifier(model, "last", (2,), 0)


def test_random_numbers_that_the_seed_does_not_fix_are_refused():
    with pytest.raises(ModelError, match="with torch alone"):
        split_at_classifier(NumpyNoise(), "last", (2,), 0)


class Kept(nn.Module):
    """Two layers, and ``keep`` of the module between them."""

    def __init__(self, between=lambda self, x: x, keep=lambda self: None):
        super().__init__()
        self.first, self.last, self.between = nn.Linear(2, 8), nn.Linear(8, 2), between
        keep(self)

    def forward(self, x):
        return self.last(self.between(self, self.first(x)))


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.round(decimals=2)

    @staticmethod
    def backward(context, gradient):
        return None


def without_gradient(self, x):
    with torch.no_grad():
        return self.middle(x)


def middle(self):
    self.middle = nn.Linear(8, 8)


@pytest.mark.parametrize(
    "between", [lambda self, x: x.detach(), lambda self, x: Rounded.apply(x), without_gradient]
)
def test_a_layer_whose_gradient_is_cut_is_refused_unless_it_is_frozen(between):
    model = Kept(between, middle)
    with pytest.raises(ModelError, match=r"first.weight .*no gradient"):
        split_at_classifier(model, "last", (2,), 0)
    frozen = Kept(between, middle)
    frozen.requires_grad_(False)
    frozen.last.requires_grad_(True)
    spec = split_at_classifier(frozen, "last", (2,), 0)
    assert {"body.first.weight", "body.first.bias"} <= spec.frozen


def test_a_layer_that_is_not_used_needs_no_gradient():
    assert "body.middle.weight" in roles_of(Kept(keep=middle), "last")


@pytest.mark.parametrize(
    "value",
    [
        [nn.Linear(8, 8)],
        {"one": (nn.Linear(8, 8),)},
        torch.rand(8, requires_grad=True),
    ],
)
def test_layers_that_torch_does_not_find_are_refused(value):
    with pytest.raises(ModelError, match=r"Kept\) .* in own"):
        split_at_classifier(Kept(keep=lambda self: setattr(self, "own", value)), "last", (2,), 0)


def test_a_list_of_layers_that_torch_finds_too_is_no_fault():
    def keep(self):
        self.both = [self.first, self.last]

    assert "body.first.weight" in roles_of(Kept(keep=keep), "last")


def counted(self, x):
    self.calls += self.training
    return x


def test_a_number_that_training_changes_is_refused():
    with pytest.raises(ModelError, match=r"calls of .*\(Kept\)"):
        split_at_classifier(Kept(counted, lambda self: setattr(self, "calls", 0)), "last", (2,), 0)


def scaled(self, x):
    return x * self.factor


BUILDS = {
    "a plain tensor": (lambda self: setattr(self, "factor", torch.rand(8)), "does not save"),
    "a buffer that is not saved": (
        lambda self: self.register_buffer("factor", torch.rand(8), persistent=False),
        "does not save",
    ),
    "a closure": (lambda self: setattr(self, "factor", float(torch.rand(()))), "does not save"),
    "numbers of numpy": (
        lambda self: self.register_buffer("factor", torch.from_numpy(np.random.rand(8)).float()),
        "gives factor other values each time; draw initial weights with torch",
    ),
    "numbers that are the same each time": (
        lambda self: self.register_buffer("factor", torch.arange(8.0), persistent=False),
        None,
    ),
    "a saved buffer": (lambda self: self.register_buffer("factor", torch.rand(8)), None),
}


@pytest.mark.parametrize("name", BUILDS)
def test_what_a_function_builds_is_the_same_each_time_and_wholly_saved(name):
    keep, reason = BUILDS[name]

    def build(shape):
        return Kept(scaled, keep), "last"

    if reason is None:
        assert custom_spec(build, "own", (2,), 0).features == 8
        return
    with pytest.raises(ModelError, match=reason):
        custom_spec(build, "own", (2,), 0)
