"""One look finds everything: settings alone, and what only the rows can tell."""

import numpy as np
import pytest

from fedtl.experiment.file import load
from fedtl.lint import lint

PRIVATE = ["privacy.epsilon=3", 'data.silos=["plain", "faint"]']


def found(*sets):
    return lint(load("digits", [*PRIVATE, *sets], sound=False))


def test_what_only_the_rows_can_tell_is_found_beside_what_the_settings_say():
    its = found("privacy.delta=0.5", "model.dtype=bf16", "privacy.noise=reproducible")
    assert [line for line in its.unsound if "float32 alone" in line]
    assert {line.split(":")[0] for line in its.unsound if "above 1/n" in line} == {"plain", "faint"}
    assert any("nothing is private" in line for line in its.doubtful)
    assert not any(line.startswith("noise:") for line in its.holds)


def test_what_holds_has_its_numbers():
    its = found("rounds=2", "train.batch_size=30")
    assert its.unsound == ()
    lines = " ".join(its.holds)
    assert "steps: 8 in all" in lines  # 100 rows train: 4 samples of 30, and 2 rounds
    assert "Poisson" in lines
    assert "keyed by the operating system" in lines


@pytest.mark.parametrize(("privately", "runs"), [(["fedavg", "fedbn"], 4), (["local", "pooled"], 0)])
def test_only_private_runs_add_up(privately, runs):
    its = found(f"compare.methods={privately}", "compare.seeds=[0, 1]")
    added = [line for line in its.doubtful if "epsilons add" in line]
    assert bool(added) is bool(runs)
    assert not runs or f"trains {runs} times" in added[0]


def test_copies_of_rows_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    x[30:] = x[:30]
    np.savez(
        tmp_path / "a.npz", train_x=x, train_y=np.arange(60) % 2, test_x=x[:10], test_y=np.arange(10) % 2
    )
    sets = [
        "data.source=npz",
        f"data.path={tmp_path}",
        "data.val=0.0",
        "privacy.epsilon=3",
        "train.batch_size=8",
    ]
    its = lint(load("digits", sets))
    assert any(
        line == "a: 30 of 60 training rows are copies of another; whoever's they are is protected less"
        for line in its.doubtful
    )


def test_without_privacy_there_is_nothing_to_hold():
    its = lint(load("digits", []))
    assert its.holds == ()
    assert its.unsound == ()
    assert len(its.doubtful) == 1
