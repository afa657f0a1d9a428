"""The mean over the last rounds: against numpy, and across an interruption."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import server_of
from fedtl.federation.round_log import RoundLog
from fedtl.methods.server import ServerStep
from tests.federation.test_rounds import Toys, run, same


@pytest.mark.parametrize("server", ["mean", "adam"])
@pytest.mark.parametrize("last", [2, 3, 4, 9])
def test_the_final_model_is_the_mean_of_the_last_ones_and_no_other_round_changes(server, last):
    plain, soup = run(Toys(), server=ServerStep(server)), run(Toys(), server=ServerStep(server, soup=last))
    for a, b in zip(plain[:-1], soup[:-1], strict=True):
        assert same(a.after.shared, b.after.shared)
    for name, tensor in soup[-1].after.shared.items():
        wanted = np.mean([one.after.shared[name].double().numpy() for one in plain[-last:]], axis=0)
        np.testing.assert_allclose(tensor, wanted, atol=1e-6)
        assert not torch.equal(tensor, plain[-1].after.shared[name])


def test_one_round_is_the_last_model():
    assert same(run(Toys())[-1].after.shared, run(Toys(), server=ServerStep(soup=1))[-1].after.shared)


def test_an_interrupted_study_ends_with_the_same_bits(tmp_path):
    whole = run(Toys(), server=ServerStep(soup=3))
    log = RoundLog(tmp_path)
    log.save(whole[2].after)
    rest = run(Toys(), log.resume().server, server=ServerStep(soup=3))
    assert len(rest) == 1
    assert same(rest[-1].after.shared, whole[-1].after.shared)


def test_settings():
    step = server_of(load_experiment("digits", ["method.server.soup=5"]).method)
    assert (step.name, step.soup) == ("mean", 5)
    assert ServerStep(**asdict(step)) == step  # as a study's file holds it
    for value in ("0", "1.5", "true"):
        with pytest.raises(ConfigError, match="server.soup"):
            load_experiment("digits", [f"method.server.soup={value}"])
