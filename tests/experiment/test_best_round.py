"""Training that stops where no later round is better, and that goes on for more rounds than it had."""

import json

import pytest

from fedtl._util.records import to_plain
from fedtl.deployment.plan import make_agreement
from fedtl.errors import BudgetExhausted, ConfigError
from fedtl.experiment.best_round import BestRound, better_round
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.more_rounds import add_rounds
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.commands import fedtl
from tests.experiment.runs import ENGINES, do, numbers, same, small, tensors

FEW = ['data.silos=["plain", "faint"]', "data.val=0.2"]
HIGH = [
    "train.lr=0.5",
    "train.momentum=0",
    "train.weight_decay=0.3",
]  # the loss falls for two rounds, then rises


class Stop(Exception):
    pass


class Given:
    """An engine whose silos answer with these losses."""

    def __init__(self, **losses):
        self.losses = losses

    def each(self, job, silos):
        return [(silo.name, self.losses[silo.name]) for silo in silos]


class Named:
    def __init__(self, name):
        self.name, self.local, self.labels = name, {}, {}


class Shared:
    shared = {}


def test_the_lowest_mean_loss_is_best_and_patience_counts_the_rounds_after_it():
    silos, best, seen = {name: Named(name) for name in "ab"}, None, []
    for round, (a, b) in enumerate([(3.0, 1.0), (1.0, 2.0), (2.0, 1.0), (float("inf"), 0.0), (1.0, 1.9)], 1):
        best, loss = better_round(best, Given(a=a, b=b), silos, Shared, round)
        seen.append((best.round, loss, best.stops(round, 2)))
    assert seen == [(1, 2.0, False), (2, 1.5, False), (2, 1.5, False), (2, None, True), (5, 1.45, False)]
    best, loss = better_round(
        None, Given(a=None, b=0.5), silos, Shared, 1
    )  # a silo without validation labels
    assert (best.loss, loss) == (0.5, 0.5)
    with pytest.raises(ConfigError, match="no silo has validation"):
        better_round(None, Given(a=None, b=None), silos, Shared, 1)


@pytest.mark.parametrize("method", ["fedtl", "pooled"])
def test_the_result_is_that_of_a_run_of_the_best_rounds_alone(method, tmp_path):
    """Also with local heads and statistics, which go back to the best round too."""
    base = [*FEW, *HIGH, f"method.name={method}"]
    found = do(tmp_path / "found", small("rounds=7", "train.patience=2", *base))
    lines = RunFolder(tmp_path / "found").history()
    losses = [line.validation_loss for line in lines]
    best = losses.index(min(losses)) + 1
    assert len(lines) == min(best + 2, 7) < 7 or best > 5
    assert best < len(lines)  # otherwise nothing was restored
    assert any(f"round {best} of {len(lines)}" in note for note in found["notes"])
    alone = do(tmp_path / "alone", small(f"rounds={best}", *base))
    assert found["silos"] == alone["silos"]
    assert same(tensors(tmp_path / "found"), tensors(tmp_path / "alone"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stopped_run_keeps_its_best_round_on_every_engine(engine, tmp_path):
    experiment = small("rounds=6", "train.patience=2", *FEW, *HIGH, *ENGINES[engine])
    whole = do(tmp_path / "whole", experiment)

    def stop(one):
        if one.after.round == 3:
            raise Stop

    folder = RunFolder.create(tmp_path / "part", experiment)
    with pytest.raises(Stop):
        run(experiment, folder, progress=stop)
    assert numbers(to_plain(run(experiment, folder))) == numbers(whole)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "part"))
    assert [line.validation_loss for line in folder.history()] == [
        line.validation_loss for line in RunFolder(tmp_path / "whole").history()
    ]


def test_more_rounds_give_the_run_of_all_rounds(tmp_path):
    path, base = tmp_path / "run", [*FEW, "train.warmup=1", "silos_per_round=1"]
    do(path, small("rounds=2", *base))
    stale = path / "silos" / "plain" / "mix.json"
    stale.write_text("{}")
    done = fedtl("run", "--resume", path, "--more-rounds", "2", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert numbers(json.loads(done.stdout)) == numbers(do(tmp_path / "all", small("rounds=4", *base)))
    assert same(tensors(path), tensors(tmp_path / "all"))
    assert [line.round for line in RunFolder(path).history()] == [1, 2, 3, 4]
    assert RunFolder(path).experiment().rounds == 4
    assert not stale.exists()


def test_more_rounds_are_refused_where_the_rounds_that_are_done_would_have_been_others(tmp_path):
    do(tmp_path / "run", small(*FEW))
    folder = RunFolder(tmp_path / "run")
    for match, settings in (
        ("cosine", ["train.schedule=cosine"]),
        ("soup", ['method.server={name="mean", soup=2}']),
        ("DomainAdversarial", ["method.name=dann", "data.target_domain=plain"]),
        ("ifca", ["method.name=ifca"]),
        ("audit.transcript = 2", ["audit.transcript=2"]),
    ):
        folder.save_experiment(small(*FEW, *settings))
        with pytest.raises(ConfigError, match=match):
            add_rounds(folder, 3)
    folder.save_experiment(small(*FEW, "privacy.epsilon=3", "privacy.tuning=public"))
    with pytest.raises(BudgetExhausted, match="epsilon = 3"):
        add_rounds(folder, 3)
    with pytest.raises(ConfigError, match="no round yet"):
        add_rounds(RunFolder.create(tmp_path / "new", small(*FEW)), 3)
    assert folder.has("result.json")
    assert fedtl("run", "digits", "--more-rounds", "2").returncode == 2


def test_patience_is_refused_under_privacy_and_between_institutions():
    with pytest.raises(ConfigError, match="train.patience = 2"):
        load_experiment("digits", ["privacy.epsilon=3", "privacy.tuning=public", "train.patience=2"])
    with pytest.raises(ConfigError, match="soup"):
        load_experiment("digits", ["train.patience=2", 'method.server={name="mean", soup=2}'])
    with pytest.raises(ConfigError, match="stay at the site"):
        make_agreement(load_experiment("digits", ["train.patience=2"]), (1, 8, 8), ("0", "1"), "", False)


def test_a_best_round_that_is_the_last_stops_nothing():
    assert not BestRound(3, 1.0, {}, {}, {}).stops(3, 1)
    assert BestRound(3, 1.0, {}, {}, {}).stops(4, 1)
