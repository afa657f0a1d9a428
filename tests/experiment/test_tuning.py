"""Trials of settings: equal numbers for every method, chosen on validation rows, never on test rows, never done twice."""

import json
import re
import tomllib
from collections import Counter
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedtl.api.results import FinishedComparison
from fedtl.errors import ConfigError
from fedtl.experiment import compare as comparing
from fedtl.experiment import run_rounds as rounds_of_run
from fedtl.experiment.columns import comparison_columns
from fedtl.experiment.config.load import load_experiment, parse_experiment
from fedtl.experiment.config.schema import TrialSettings
from fedtl.experiment.epochs import epochs_at_silo
from fedtl.experiment.run import Given, run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study_data import StudyData
from fedtl.experiment.trial import run_trial
from fedtl.experiment.tuning import check_budgets, choose, edge_warnings, trial_values, with_values
from fedtl.methods.registry import METHODS
from fedtl.results.tuning import Trial
from fedtl.simulation.shared_store import temporary_store
from fedtl.training import finish
from fedtl.training.loop import Loop

SILOS = ("a", "b", "c")


def write_rows(folder, own_test=True, task="classification", seed=0):
    """Three silos of a table: the label follows from the inputs, and in regression has another unit at each silo."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(SILOS):
        rng = np.random.default_rng((seed, number))
        x = rng.normal(size=(60, 4)).astype(np.float32)
        value = x.sum(1) + 0.3 * rng.normal(size=60)
        y = (value > 0).astype(np.int64) if task == "classification" else value * 10**number
        arrays = {"train_x": x[:40], "train_y": y[:40]}
        if own_test:
            arrays |= {"test_x": x[40:], "test_y": y[40:]}
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def experiment_on(folder, *, tune=None, **changes):
    table = {
        "rounds": 2,
        "data": {"source": "npz", "path": str(folder), "val": 0.25, **changes.pop("data", {})},
        "model": {"name": "mlp"},
        "train": {"batch_size": 8},
        "method": {"tune": {"epochs": 1}, **changes.pop("method", {})},
        "engine": {"name": "serial"},
        "compare": {"methods": ["local", "fedavg"], "seeds": [0], "tune": tune or {}},
    }
    table["compare"] |= changes.pop("compare", {})
    return parse_experiment(table | changes)


class Here:
    """A pool that does each job at once in this process; ``stop_after``: Ctrl-C before the next one."""

    def __init__(self, stop_after=None):
        self.jobs, self.stop_after = [], stop_after

    def submit(self, work, job, *more):
        if len(self.jobs) == self.stop_after:
            raise KeyboardInterrupt
        self.jobs.append(job)
        future = Future()
        future.set_result(work(job, *more))
        return future


def compare_here(monkeypatch, experiment, path, stop_after=None, watch=None):
    pool = Here(stop_after)

    @contextmanager
    def here(*_):
        yield pool

    monkeypatch.setattr(comparing, "worker_pool", here)
    folder = RunFolder(path) if (path / "experiment.toml").exists() else RunFolder.create(path, experiment)
    return comparing.compare(experiment, folder, 1, "cpu", watch), pool.jobs


# The grid


def test_without_a_number_every_combination_is_tried():
    tune = TrialSettings(
        train={"lr": [0.1, 0.2], "batch_size": [8]}, ditto={"method": {"mu": [1.0, 2.0, 3.0]}}
    )
    assert trial_values(tune, "local") == [{"train.lr": lr, "train.batch_size": 8} for lr in (0.1, 0.2)]
    tried = [(v["train.lr"], v["method.mu"]) for v in trial_values(tune, "ditto")]
    assert tried == list(product((0.1, 0.2), (1.0, 2.0, 3.0)))
    assert trial_values(TrialSettings(), "local") == []


def test_a_method_may_replace_the_common_values():
    tune = TrialSettings(train={"lr": [0.1, 0.2]}, fedavg={"train": {"lr": [0.3, 0.4]}})
    assert [v["train.lr"] for v in trial_values(tune, "fedavg")] == [0.3, 0.4]


@pytest.mark.parametrize("count", [2, 3, 6, 7, 17])
def test_a_sample_of_combinations_has_each_value_about_equally_often(count):
    """A Latin hypercube: for up to as many trials as values, no value occurs twice."""
    tune = TrialSettings(
        trials=count, train={"lr": [0.1 * k for k in range(1, 7)]}, method={"mu": [1.0, 2.0, 3.0]}
    )
    tried = trial_values(tune, "ditto")
    assert len({tuple(one.values()) for one in tried}) == len(tried) == count
    assert tried == trial_values(tune, "ditto")
    if count < 6:  # methods without mu try the same rates
        common = TrialSettings(trials=count, train=tune.train)
        assert [v["train.lr"] for v in trial_values(common, "local")] == [v["train.lr"] for v in tried]
    if count <= 6:
        assert max(Counter(one["train.lr"] for one in tried).values()) == 1
        mu = Counter(one["method.mu"] for one in tried)
        assert max(mu.values()) - min(mu[value] for value in (1.0, 2.0, 3.0)) <= 1


def test_every_method_tries_equally_many():
    tune = TrialSettings(train={"lr": [0.1, 0.2]}, ditto={"method": {"mu": [1.0, 2.0]}})
    check_budgets(tune, ["local", "fedavg"])
    with pytest.raises(ConfigError, match="local 2, ditto 4"):
        check_budgets(tune, ["local", "ditto"])
    equal = TrialSettings(trials=2, train=tune.train, ditto={"method": {"mu": [1.0, 2.0]}})
    check_budgets(equal, ["local", "ditto"])
    assert [one["train.lr"] for one in trial_values(equal, "local")] == [0.1, 0.2]
    assert {one["train.lr"] for one in trial_values(equal, "ditto")} == {
        0.1,
        0.2,
    }  # the same values as the others
    with pytest.raises(ConfigError, match="trials = 3"):
        check_budgets(TrialSettings(trials=3, train=tune.train), ["local"])
    only_one = TrialSettings(ditto={"method": {"mu": [1.0, 2.0]}})
    with pytest.raises(ConfigError, match="local 0, ditto 2"):
        check_budgets(only_one, ["local", "ditto"])


def test_a_method_may_have_settings_of_its_own_without_trials():
    own = {
        "ditto": {"method": {"mu": 0.5}},
        "fedavg": {"train": {"lr": 0.02}, "method": {"server": {"name": "adam", "lr": 0.5}}},
    }
    compare = {"methods": ["local", "ditto", "fedavg", "fedtl"], "set": own}
    experiment = experiment_on("/", data={"source": "digits", "path": ""}, compare=compare)
    columns = {column.label: column.experiment for column in comparison_columns(experiment)}
    assert columns["ditto"].method.own == {"mu": 0.5}
    assert columns["fedavg"].train.lr == 0.02
    assert columns["fedavg"].method.server["lr"] == 0.5
    for other in ("local", "constant", "ditto", "fedtl"):
        assert columns[other].train == experiment.train
    assert columns["fedtl"].method == experiment.method


def test_settings_of_the_experiments_own_method_hold_in_all_of_its_columns():
    compare = {"methods": ["local", "fedtl"], "set": {"fedtl": {"train": {"lr": 0.02}}}}
    data = {"source": "digits", "path": "", "silos": ["plain", "faint", "blurred"]}
    method = {"terms": [{"name": "proximal", "mu": 0.1}]}
    experiment = experiment_on(
        "/", data=data, method=method, compare=compare, model={"name": "mlp", "pretrain_on": ["plain"]}
    )
    rates = {column.label: column.experiment.train.lr for column in comparison_columns(experiment)}
    alone = rates.pop("local"), rates.pop("constant")
    assert alone == (0.05, 0.05)
    assert rates == {"fedtl": 0.02, "fedtl, no terms": 0.02, "fedtl, from scratch": 0.02}


def test_a_setting_that_the_method_does_not_have_is_refused():
    compare = {"methods": ["local", "fedavg"], "set": {"fedavg": {"method": {"mu": 0.3}}}}
    with pytest.raises(ConfigError, match=r"compare\.set\.fedavg.*mu"):
        comparison_columns(experiment_on("/", data={"source": "digits", "path": ""}, compare=compare))


def test_a_setting_is_either_set_or_tried():
    tune, own = {"train": {"lr": [0.1, 0.2]}}, {"fedavg": {"train": {"lr": 0.3}}}
    compare = {"methods": ["local", "fedavg"], "set": own}
    with pytest.raises(ConfigError, match=r"compare\.set\.fedavg\.train\.lr"):
        comparison_columns(
            experiment_on("/", tune=tune, data={"source": "digits", "path": ""}, compare=compare)
        )


WRONG = {
    "compare.set.fedavg.train.epochs=2": "different numbers of epochs",
    "compare.set.fedavg.method.tune.lr=0.1": "finishes its models alike",
    "compare.set.fedavg.lr.a=0.1": "compare.set.fedavg.train.lr = 0.1",
    "compare.set.moon.train.lr=0.1": "not in compare.methods",
    "compare.tune.train.epochs=[1,2]": "different numbers of epochs",
    "compare.tune.method.name=['fedavg']": "compare.methods",
    "compare.tune.train.lr=0.1": "compare.tune.train.lr = 0.1",
    "compare.tune.train.lr=[]": "compare.tune.train.lr = []",
    "compare.tune.train.lr=[0.1,0.1]": "a value twice",
    "compare.tune.train.rate=[0.1]": '"compare.tune.train.rate" is not a setting',
    "compare.tune.lr=[0.1]": 'did you mean "compare.tune.train.lr"?',
    "compare.tune.dito.method.mu=[0.1]": "did you mean 'ditto'?",
    "compare.tune.ditto.mu=[0.1]": "compare.tune.ditto.method.mu",
    'compare.tune={"train.lr"=[0.1]}': "key with a dot",
    "compare.tune.trials=2": "no values to try",
    "compare.tune.train.lr=[0.1] privacy.epsilon=1": "privacy budget",
    "compare.methods=['local ensemble']": 'add "local"',
}


@pytest.mark.parametrize("overrides", WRONG)
def test_a_grid_that_cannot_be_tried_is_refused_in_one_line(overrides):
    with pytest.raises(ConfigError) as refused:
        load_experiment("digits", overrides.split(" ") if "privacy" in overrides else [overrides])
    assert WRONG[overrides] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_value_that_a_method_does_not_take_is_refused_before_training():
    for grid in ({"train": {"lr": [0.1, -1.0]}}, {"method": {"mu": [0.1, 0.2]}}):
        with pytest.raises(ConfigError, match=r"train\.lr|method\.mu"):
            comparison_columns(experiment_on("/", tune=grid, data={"source": "digits", "path": ""}))


def test_the_grid_of_the_documentation_is_one():
    text = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    (block,) = re.findall(r"```toml\n(\[compare.tune\].*?)```", text, re.S)
    tune = TrialSettings(**tomllib.loads(block)["compare"]["tune"])
    check_budgets(tune, ["local", "fedavg", "ditto"])
    assert len(trial_values(tune, "ditto")) == len(trial_values(tune, "local")) == 3
    methods = ["local", "fedavg", "ditto"]
    comparison_columns(
        experiment_on(
            "/", tune=tune.model_dump(), data={"source": "digits", "path": ""}, compare={"methods": methods}
        )
    )


def test_a_method_that_a_program_passes_tries_values_too():
    experiment = experiment_on("/", data={"source": "digits", "path": ""})
    custom = experiment.model_copy(
        update={"method": experiment.method.with_value("custom:mine", METHODS["fedbn"]())}
    )
    tried = with_values(custom, {"train.lr": 0.5, "method.tune.epochs": 4})
    assert tried.train.lr == 0.5
    assert tried.method.tune.epochs == 4
    assert tried.method.value is custom.method.value
    with pytest.raises(ConfigError, match=r"method\.mu"):
        with_values(custom, {"method.mu": 0.5})


# The choice


def test_the_lowest_mean_loss_is_chosen_and_a_failed_trial_never():
    trials = [Trial({"train.lr": lr}, loss) for lr, loss in ((0.1, 2.0), (0.2, 1.0), (0.3, 1.0))]
    assert choose("local", 0, trials).chosen == {"train.lr": 0.2}
    failed = Trial({"train.lr": 9.0}, None, "a: body.weight is not finite")
    assert choose("local", 0, [failed, *trials]).chosen == {"train.lr": 0.2}
    with pytest.raises(ConfigError, match="local failed"):
        choose("local", 0, [failed])


def test_a_choice_at_the_edge_of_the_grid_is_told():
    def tuning(best):
        return choose("x", 0, [Trial({"train.lr": lr}, abs(lr - best)) for lr in (0.1, 0.2, 0.3)])

    assert edge_warnings({"local": [tuning(0.2)]}) == []
    (line,) = edge_warnings({"local": [tuning(0.2)], "fedavg": [tuning(0.3)]})
    assert "fedavg (train.lr = 0.3)" in line
    assert "local" not in line


# Trials


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("method", ["fedtl", "pooled"])
def test_a_trial_measures_what_the_run_measures_on_validation_rows(tmp_path, task, method):
    rows = write_rows(tmp_path / "rows", task=task)
    experiment = experiment_on(rows, data={"task": task}, method={"name": method})
    with temporary_store() as store:
        trial = run_trial(
            experiment, RunFolder.create(tmp_path / "trial", experiment), "cpu", None, Given(store)
        )
        full = RunFolder.create(tmp_path / "run", experiment)
        run(experiment, full, given=Given(store))
    for name in SILOS:
        scale = full.inputs(name)[0].y_std ** 2 if task == "regression" else 1.0
        assert trial.losses[name] == pytest.approx(full.validation(name)["loss"] / scale, rel=1e-4)
    assert trial.loss == pytest.approx(np.mean(list(trial.losses.values())))
    assert not (tmp_path / "trial" / "result.json").exists()
    assert not (tmp_path / "trial" / "checkpoint").exists()


def test_a_trial_never_sees_a_test_row(tmp_path, monkeypatch):
    """Neither does it ask for them, nor does anything change when all of them are others."""
    monkeypatch.setattr(StudyData, "evaluation_set", None)
    kept = []
    for other in (0, 1):
        rows = write_rows(tmp_path / f"rows{other}")
        for name in SILOS if other else ():
            arrays = dict(np.load(rows / f"{name}.npz"))
            arrays |= {"test_x": arrays["test_x"] * 100, "test_y": 1 - arrays["test_y"]}
            np.savez(rows / f"{name}.npz", **arrays)
        experiment, path = experiment_on(rows), tmp_path / f"trial{other}"
        with temporary_store() as store:
            run_trial(experiment, RunFolder.create(path, experiment), "cpu", None, Given(store))
        kept.append((path / "trial.json").read_text())
    assert kept[0] == kept[1]


def test_a_trial_that_diverges_has_failed_and_is_no_error(tmp_path, monkeypatch):
    tune = {"train": {"lr": [1e30, 0.05]}}
    experiment = experiment_on(write_rows(tmp_path / "rows"), tune=tune)
    comparison, _ = compare_here(monkeypatch, experiment, tmp_path / "c")
    (local,), (fedavg,) = comparison.tuning["local"], comparison.tuning["fedavg"]
    for tuning in (local, fedavg):
        assert tuning.chosen == {"train.lr": 0.05}
        assert tuning.trials[0].loss is None
        assert "finite" in tuning.trials[0].failed


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned")
    tune = {"trials": 2, "train": {"lr": [0.001, 0.1]}, "ditto": {"method": {"mu": [0.1, 1.0]}}}
    methods = ["local", "local ensemble", "fedavg", "ditto"]
    experiment = experiment_on(
        write_rows(path / "rows"), tune=tune, compare={"methods": methods, "seeds": [0, 1]}
    )
    seen = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        comparison, jobs = compare_here(
            monkeypatch, experiment, path / "c", watch=lambda *now: seen.append(now)
        )
    return experiment, path / "c", comparison, jobs, seen


def test_the_chosen_values_are_those_of_the_runs(tuned):
    _experiment, path, comparison, _, _ = tuned
    for label in ("local", "fedavg", "ditto"):
        (tuning,) = comparison.tuning[label]  # one seed: the test rows are the source's own
        for number, trial in enumerate(tuning.trials, 1):
            losses = json.loads((path / f"trials/{label}-{number}-seed0/trial.json").read_text())["losses"]
            assert trial.loss == pytest.approx(np.mean([losses[name] for name in SILOS]))
        best = min(tuning.trials, key=lambda trial: trial.loss)
        assert tuning.chosen == best.settings
        for seed in (0, 1):
            settings = RunFolder(path / f"runs/{label}-seed{seed}").experiment()
            assert settings.train.lr == best.settings["train.lr"]
            if label == "ditto":
                assert settings.method.own["mu"] == best.settings["method.mu"]
    second = RunFolder(path / "runs/local-ensemble-seed1/second").experiment()
    assert second.train.lr == comparison.tuning["local"][0].chosen["train.lr"]
    assert RunFolder(path).comparison().tuning == comparison.tuning


def test_the_progress_counts_the_rounds_of_trials_and_runs_and_the_finished_models(tuned):
    experiment, _, _, jobs, seen = tuned
    trials, runs = 3 * 2, 2 * 4  # of three methods; of three methods and the second local one
    assert {total for _, total in seen} == {(trials + runs) * experiment.rounds + runs * len(SILOS)}
    assert seen[-1][0] == seen[-1][1]
    assert len(jobs) == trials + runs + 2  # and two of constant answers


def test_nothing_is_done_twice(tuned, monkeypatch):
    experiment, path, comparison, _, _ = tuned
    monkeypatch.setattr(rounds_of_run, "run_rounds", None)
    again, _ = compare_here(monkeypatch, experiment, path)
    assert again == comparison


@pytest.mark.parametrize("stop_after", [1, 9])
def test_an_interrupted_comparison_resumes_to_the_same_numbers(tuned, tmp_path, monkeypatch, stop_after):
    """Ctrl-C during the trials, and during the runs."""
    experiment, _, comparison, _, _ = tuned
    with pytest.raises(KeyboardInterrupt):
        compare_here(monkeypatch, experiment, tmp_path / "c", stop_after)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("trial.json")}
    again, _ = compare_here(monkeypatch, experiment, tmp_path / "c")
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(done) == min(stop_after, 6)
    for part in ("tuning", "methods", "benefit", "over_local", "epochs"):
        assert getattr(again, part) == getattr(comparison, part)


def test_each_seed_tries_for_itself_where_its_test_rows_are_trained_on_under_another(tmp_path, monkeypatch):
    rows = write_rows(tmp_path / "rows", own_test=False)
    grid, compare = {"train": {"lr": [0.01, 0.1]}}, {"methods": ["local"], "seeds": [0, 1]}
    drawn, _ = compare_here(monkeypatch, experiment_on(rows, tune=grid, compare=compare), tmp_path / "drawn")
    assert [tuning.seed for tuning in drawn.tuning["local"]] == [0, 1]
    fixed = experiment_on(rows, tune=grid, compare=compare, data={"split_seed": 3})
    one, _ = compare_here(monkeypatch, fixed, tmp_path / "fixed")
    assert [tuning.seed for tuning in one.tuning["local"]] == [0]
    ids = [
        load_file(tmp_path / f"fixed/runs/local-seed{seed}/silos/a/test.safetensors")["ids"]
        for seed in (0, 1)
    ]
    assert (ids[0] == ids[1]).all()


def test_all_trials_start_from_the_same_pretrained_weights(tmp_path, monkeypatch):
    experiment = experiment_on(
        write_rows(tmp_path / "rows"),
        tune={"train": {"lr": [0.01, 0.1]}},
        model={"name": "mlp", "pretrain_on": ["c"], "pretrain_epochs": 1},
        compare={"methods": ["local"], "seeds": [0]},
    )
    _, jobs = compare_here(monkeypatch, experiment, tmp_path / "c")
    assert {job.base.train.lr for job in jobs} == {experiment.train.lr}
    assert {job.experiment.train.lr for job in jobs} == {0.01, 0.1}


# Equal epochs


# Each way in which epochs count: none sent, rows of all, own epochs and several phases, a model of its own or several, a mix with
# the silo's own model, public inputs, and a body that is trained without labels. The other methods count in one of them: left to the night.
COUNTED = ("local", "pooled", "fedbabu", "fedrep", "ditto", "ifca", "fedtl", "feddf", "select_start", "scarf")


@pytest.mark.parametrize(
    "name",
    [
        name if name in COUNTED else pytest.param(name, marks=pytest.mark.nightly)
        for name in METHODS
        if not METHODS[name]().needs_target
    ],
)
def test_the_epochs_that_are_told_are_those_that_a_silo_trains(name, tmp_path, monkeypatch):
    counted, batches = Counter(), Loop.batches

    def counting(self, silo, phase, generator):
        if not phase.public:  # epochs over public inputs are none over the silo's rows
            counted[silo.name] += self.training.epochs if phase.epochs is None else phase.epochs
        return batches(self, silo, phase, generator)

    monkeypatch.setattr(Loop, "batches", counting)
    # The body by which doubtful labels are looked for is no part of any model, so its epochs do not count.
    monkeypatch.setattr(finish, "_doubts", lambda *_: None)
    data = {"public": ["noise:9"]} if name in ("feddf", "fedmd") else {}
    method = {"name": name, "tune": {"epochs": 3}}
    experiment = experiment_on(write_rows(tmp_path / "rows"), data=data, method=method, train={"epochs": 2})
    run(experiment, RunFolder.create(tmp_path / "run", experiment))
    trained = ("pooled",) if name == "pooled" else SILOS
    assert {silo: counted[silo] for silo in trained} == dict.fromkeys(trained, epochs_at_silo(experiment))
    assert counted.keys() <= set(trained)


def test_unequal_epochs_are_named(tuned):
    _, _, comparison, _, _ = tuned
    assert comparison.epochs == {
        "local": 3,
        "constant": 0,
        "local ensemble": 6,
        "fedavg": 6,  # two rounds and one epoch of tuning, and as much for the silo's own model
        "ditto": 8,
    }
    (line,) = (line for line in comparison.warnings if "epochs" in line)
    assert "local (3): local ensemble 6, fedavg 6, ditto 8; " in line
    assert line.endswith("local ensemble trains two")


def test_a_program_reads_the_trials_as_a_table(tuned):
    _, path, comparison, _, _ = tuned
    table = FinishedComparison(path).trials
    assert len(table) == 6
    for method, (tuning,) in comparison.tuning.items():
        chosen = table.loc[method][table.loc[method]["chosen"]]
        assert chosen["train.lr"].tolist() == [tuning.chosen["train.lr"]]
        assert chosen["loss"].tolist() == [min(trial.loss for trial in tuning.trials)]
