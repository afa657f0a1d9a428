"""Layers that an author wrote: what they keep of the rows that they saw is a statistic, whatever it is called."""

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.norms import statistics_distance
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
