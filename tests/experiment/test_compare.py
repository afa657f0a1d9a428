"""Which columns a comparison has, and that what it says of finished runs is what their test rows say."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedtl._util.records import to_plain
from fedtl.errors import ConfigError
from fedtl.experiment.columns import Repeat, comparison_columns
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.curves import learning_curves
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.summary import summarize_runs
from fedtl.methods.tune import Tune

ROWS = 200
RESULT = {
    **{
        "fedtl": "0.1.0",
        "method": "fedtl",
        "model": "convnet",
        "task": "classification",
        "metric": "accuracy",
    },
    **{"seed": 0, "rounds": 2, "mean": {}, "mean_silos": {}, "worst": {}, "notes": []},
    **{"bytes_up": 0, "bytes_down": 0, "seconds": 1.0, "device": "cpu", "workers": 1},
}


def of(*overrides):
    return comparison_columns(load_experiment("digits", list(overrides)))


def test_a_column_a_method_and_each_is_serial_and_its_own():
    columns = of("compare.methods=['local','fedavg','fedtl']", "method.tune={what='head', epochs=2}")
    assert [column.label for column in columns] == ["local", "constant", "fedavg", "fedtl"]
    assert {column.experiment.engine.name for column in columns} == {"serial"}
    assert [method_of(column.experiment.method).tune for column in columns] == [Tune("head", 2)] * 4
    assert columns[1].at(Repeat(7)).seed == 7
    assert len({column.folder(Repeat(seed)) for column in columns for seed in (0, 1)}) == 8


def test_further_terms_stand_beside_the_method_without_them():
    columns = of(
        "compare.methods=['local','fedtl']", "method.terms=[{name='coral'}]", "data.target_domain=inverted"
    )
    assert [column.label for column in columns] == ["local", "constant", "fedtl", "fedtl, no terms"]
    terms = [
        {type(term).__name__ for term in method_of(column.experiment.method).losses}
        for column in columns
        if column.label != "constant"
    ]
    assert terms == [{"TaskLoss"}, {"TaskLoss", "Coral"}, {"TaskLoss"}]


def test_a_start_stands_beside_from_scratch_with_the_same_silos():
    columns = of("compare.methods=['fedtl']", "model.pretrain_on=['plain']", "model.freeze=1")
    start, scratch = (column.experiment for column in columns)
    assert columns[1].label == "fedtl, from scratch"
    assert start.model.pretrain_on == ["plain"]
    assert (scratch.model.pretrain_on, scratch.model.freeze) == ([], 0)
    assert "plain" not in scratch.data.silos
    assert len(scratch.data.silos) == 5


def test_without_validation_rows_nothing_can_be_chosen():
    with pytest.raises(ConfigError, match=r"data\.val = 0"):
        of("data.val=0")


def finished(path, right, validation, rng):
    """A run whose model is right on so many of two silos' test rows, with the scores that say so."""
    silos = {}
    for name, share in right.items():
        y = rng.integers(2, size=ROWS)
        guess = np.where(np.arange(ROWS) < share * ROWS, y, 1 - y)
        scores = torch.nn.functional.one_hot(torch.tensor(guess), 2) * 2.0
        (path / "silos" / name).mkdir(parents=True)
        tensors = {"scores": scores, "y": torch.tensor(y), "ids": torch.arange(ROWS)}
        save_file(tensors, path / "silos" / name / "test.safetensors")
        figures = {"accuracy": float((guess == y).mean()), "balanced_accuracy": 0.5, "loss": 0.5}
        silos[name] = {"train": ROWS, "val": ROWS, "test": ROWS, **figures}
        (path / "silos" / name / "validation.json").write_text(json.dumps(validation[name]))
    (path / "result.json").write_text(json.dumps({**RESULT, "silos": silos}))
    write_history(path, [{name: {"accuracy": at / 10} for name in right} for at in (1, 2)])
    return RunFolder(path)


def write_history(path, rounds):
    same = {"seconds": 0.1, "left_out": {}, "bytes_up": 0, "bytes_down": 0}
    lines = [{"round": at, "silos": silos, **same} for at, silos in enumerate(rounds, 1)]
    (path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    right = {"local": (0.5, 0.9), "fedavg": (0.9, 0.6), "fedtl": (0.95, 0.9)}
    val = {"local": (0.99, 0.99), "fedavg": (0.8, 0.5), "fedtl": (0.7, 0.9)}
    return {
        method: [
            finished(
                tmp_path / f"{method}-{seed}",
                dict(zip(("a", "b"), right[method], strict=True)),
                {n: {"accuracy": v, "loss": 1 - v} for n, v in zip(("a", "b"), val[method], strict=True)},
                rng,
            )
            for seed in (0, 1)
        ]
        for method in right
    }


def summary(experiment, folders):
    """The comparison, as its file holds it."""
    return to_plain(summarize_runs(experiment, folders))


def two(*overrides):
    return load_experiment(
        "digits", ["compare.seeds=[0,1]", "compare.methods=['local','fedavg','fedtl']", *overrides]
    )


def test_the_best_is_chosen_on_validation_rows_and_judged_on_test_rows(runs):
    said = summary(two(), runs)
    assert said["benefit"]["a"]["best"] == "fedavg"  # fedtl is better on test rows, and local on validation
    assert said["benefit"]["a"]["over_local"] == pytest.approx(0.4)
    assert said["benefit"]["a"]["verdict"] == "gains"
    assert said["benefit"]["b"]["best"] == "fedtl"
    assert said["benefit"]["b"]["verdict"] == "unclear"
    assert said["mean"]["fedtl"]["accuracy"]["mean"] == pytest.approx((0.95 + 0.9) / 2)
    assert said["worst"]["fedavg"] == {"silo": "b", "accuracy": pytest.approx(0.6), "silos": 2}
    assert [line.split(" by ")[0] for line in said["warnings"]] == ["fedavg is worse than local at b"]
    assert said == summary(two(), runs)


def test_the_interval_covers_what_the_binomial_law_says(runs):
    low, high = summary(two(), runs)["methods"]["fedtl"]["b"]["accuracy"]["ci95"]
    half = (
        1.96 * (0.9 * 0.1 / ROWS) ** 0.5
    )  # both seeds are right on the same rows: no more than one test set
    assert high - low == pytest.approx(2 * half, rel=0.15)


def test_where_validation_rows_cannot_give_the_metric_their_loss_chooses(runs):
    for method, loss in (("fedavg", 0.9), ("fedtl", 0.2)):
        for run in runs[method]:
            run.write_json("silos/a/validation.json", {"loss": loss})
    assert summary(two(), runs)["benefit"]["a"]["best"] == "fedtl"


def private(*overrides):
    return two("privacy.epsilon=3", *overrides)


def test_no_best_is_chosen_on_private_validation_rows(runs):
    """Neither on the exact figures, which are there, nor on those of another metric than the one that is released."""
    of("privacy.epsilon=3", "data.val=0")  # nothing is chosen on them, so none are needed
    for experiment in (private(), private('privacy.metrics=["accuracy"]', "compare.metric=auc")):
        said = summary(experiment, runs)
        assert said["chosen_on"] is None
        assert said["benefit"] == {}
    assert summary(private(), runs)["over_local"]["fedtl"]["a"]["mean"] == pytest.approx(0.45)  # of test rows


def test_of_a_private_comparison_what_was_released_chooses(runs):
    """The last noisy accuracy of each run; not the exact one, which says the opposite."""
    noisy = {"fedavg": 0.1, "fedtl": 0.3}  # on validation rows fedavg is better at silo a
    for method, ones in runs.items():
        for run in ones:
            released = (1 - noisy.get(method, 0.9), noisy.get(method, 0.9))
            write_history(run.path, [{"a": {"accuracy": now}, "b": {}} for now in released])
    said = summary(private('privacy.metrics=["accuracy"]'), runs)
    assert said["chosen_on"] == "released accuracy"
    assert {silo: its["best"] for silo, its in said["benefit"].items()} == {"a": "fedtl"}
    assert set(learning_curves(private('privacy.metrics=["accuracy"]'), runs)) == {"fedavg", "fedtl"}


def test_curves_are_means_over_silos_and_seeds(runs):
    """The last point is of the models that the table scores."""
    found = learning_curves(two(), runs)
    last = {"local": 0.99, "fedavg": (0.8 + 0.5) / 2, "fedtl": (0.7 + 0.9) / 2}
    assert {method: list(its.values) for method, its in found.items()} == {
        method: pytest.approx([0.1, 0.2, last[method]]) for method in runs
    }
    assert all(its.silos == [2, 2, 2] for its in found.values())


def test_yardsticks_are_never_private():
    experiment = load_experiment(
        "digits", ["privacy.epsilon=3", "silo.faint.privacy.epsilon=1", "method.name=fedbn"]
    )
    private = {
        column.label: column.experiment.privacy is not None for column in comparison_columns(experiment)
    }
    assert private == {
        "local": False,
        "constant": False,
        "pooled": False,
        "fedavg": True,
        "fedbn": True,
        "local ensemble": False,
        "fedtl": True,
    }


def test_a_private_comparison_from_a_public_start_has_what_costs_nothing_beside_it():
    sets = ["compare.methods=['local','fedtl']", "model.pretrain_on=['plain']"]
    assert "probe" not in [column.label for column in of(*sets)]
    columns = {column.label: column.experiment for column in of(*sets, "privacy.epsilon=3")}
    assert columns["probe"].privacy is None  # nothing of it is released
    assert columns["probe"].model.pretrain_on == ["plain"]
    assert columns["fedtl"].privacy is not None
    assert "probe" not in [column.label for column in of(sets[0], "privacy.epsilon=3")]


def lacking(runs, label, silo, metric, reason, only=None):
    """Take a figure out of finished runs, with the reason."""
    for run in runs[label] if only is None else [runs[label][only]]:
        result = run.read_json("result.json")
        del result["silos"][silo][metric]
        result["silos"][silo].setdefault("absent", {})[metric] = reason
        run.write_json("result.json", {**result, "seed": int(run.path.name[-1])})


def test_a_mean_and_a_worst_say_over_how_many_silos_they_are(runs):
    lacking(runs, "fedavg", "b", "accuracy", "all 200 rows have the same class")
    lacking(runs, "fedtl", "a", "accuracy", "the scores of 3 of 200 rows are not finite", only=1)
    said = summary(two(), runs)
    assert said["mean"]["local"]["accuracy"]["silos"] == 2
    assert said["mean"]["fedavg"]["accuracy"]["silos"] == 1
    assert said["mean"]["fedavg"]["accuracy"]["mean"] == said["methods"]["fedavg"]["a"]["accuracy"]["mean"]
    assert said["worst"]["fedavg"]["silos"] == 1
    assert said["absent"]["fedavg"]["b"]["accuracy"] == "all 200 rows have the same class"
    assert "3 of 200 rows are not finite (seed 1)" in said["absent"]["fedtl"]["a"]["accuracy"]
    assert "accuracy" not in said["methods"]["fedtl"]["a"]


def test_what_training_left_of_statistics_is_told_by_method(runs):
    for label, distance in (("local", 0.3), ("fedavg", 0.2), ("fedtl", 0.05)):
        for run in runs[label]:
            result = run.read_json("result.json")
            for silo, its in result["silos"].items():
                its["statistics_distance"] = distance if silo == "a" else 0.01
                if label == "fedavg":
                    its["refitted"] = {"accuracy": 0.75, "absent": {"auc": "why"}}
            run.write_json("result.json", result)
    said = summary(two(), runs)
    own, shared = (line for line in said["warnings"] if "standard deviations" in line)
    assert own.endswith("local at 1 of 2 silos")
    assert shared.endswith("fedavg at 1 of 2 silos")
    assert set(said["refitted"]) == {"fedavg"}
    assert said["refitted"]["fedavg"]["a"]["accuracy"] == {"mean": 0.75, "seeds": [0.75, 0.75]}


def test_whoever_has_everybodys_rows_stands_for_every_silo(runs):
    for run in runs["local"]:
        write_history(run.path, [{"pooled": {"accuracy": 0.4}}] * 2)
    assert learning_curves(two(), {"pooled": runs["local"]})["pooled"].silos == [2, 2, 2]


def test_a_method_below_the_constant_answer_is_named_with_the_silo(runs):
    """At silo a, local is right on half of the rows; the constant answer is made to be right on one of two labels."""
    constant = []
    for run in runs["local"]:
        other = RunFolder(run.path.with_name(run.path.name.replace("local", "constant")))
        for silo in ("a", "b"):
            tensors = run.tensors(f"silos/{silo}/test.safetensors")
            frequent = float(tensors["y"].double().mean() > 0.5)
            scores = torch.tensor([1 - frequent, frequent]).repeat(ROWS, 1)
            (other.path / "silos" / silo).mkdir(parents=True)
            save_file({**tensors, "scores": scores}, other.path / "silos" / silo / "test.safetensors")
        other.write_json("result.json", run.read_json("result.json"))
        constant.append(other)
    said = summary(two(), {"local": runs["local"], "constant": constant, "fedtl": runs["fedtl"]})
    assert said["methods"]["constant"]["a"]["accuracy"]["mean"] > 0.5
    below = [line for line in said["warnings"] if "constant answer" in line]
    assert [line.split(" has ")[0] for line in below] == ["local"]
    assert "at a (50.0 against 5" in below[0]
    assert list(said["over_local"]) == ["fedtl"]


def test_each_run_chooses_on_its_own_validation_rows(runs):
    """Rows that one seed validates on are test rows of another: a choice over all seeds would have seen them."""
    for number, (fedavg, fedtl) in enumerate(((0.9, 0.1), (0.2, 0.8))):
        for label, value in (("fedavg", fedavg), ("fedtl", fedtl)):
            runs[label][number].write_json("silos/a/validation.json", {"accuracy": value, "loss": 0.5})
    own = summary(two(), runs)["benefit"]["a"]
    assert own["best"] == "fedavg"  # of methods taken equally often, the first
    assert own["chosen"] == {"fedavg": 1, "fedtl": 1}
    assert own["over_local"] == pytest.approx((0.9 + 0.95) / 2 - 0.5)


def test_all_silos_together_are_told_by_method_and_for_the_methods_that_silos_take(runs):
    said = summary(two(), runs)
    assert said["overall"]["fedavg"]["mean"]["mean"] == pytest.approx((0.4 - 0.3) / 2)
    assert (said["overall"]["fedavg"]["not_worse"], said["overall"]["fedavg"]["loss_excluded"]) == (1, 1)
    assert said["overall"]["fedavg"]["worst"] == "b"
    assert said["overall"]["fedavg"]["verdicts"] == {"gains": 1, "as good": 0, "loses": 1, "unclear": 0}
    assert said["joining"]["not_worse"] == 2
    assert said["joining"]["mean"]["mean"] == pytest.approx(0.2)
