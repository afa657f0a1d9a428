"""With folds every row is tested once, by a model that has not seen it, and a comparison pools the rows of all folds."""

from collections import Counter

import numpy as np
import pytest
from sklearn import metrics

from fedtl.data import prepare
from fedtl.data.parts import split_rows
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.columns import Kind, Repeat, comparison_columns, repeats, run_folders
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.own_models import stored_own_models
from fedtl.experiment.run import Given, run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.summary import summarize_runs
from fedtl.experiment.yardsticks import write_constant
from fedtl.simulation.shared_store import temporary_store

FOLDS, ROWS = 3, 31
KINDS = {
    "classes": {},
    "values": {"task": "regression"},
    "units": {"unit_column": "patient"},
    "by record": {"by_record": True},
    "units by record": {"by_record": True, "unit_column": "patient"},
}


def write_silos(path):
    """Two silos with rows of eleven patients; more than half of the rows have the first label."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        y = np.where(np.arange(ROWS) < 19, 0, 1 + np.arange(ROWS) % 2)
        x = rng.normal(size=(ROWS, 4)) + y[:, None]
        np.savez(path / f"{name}.npz", train_x=x, train_y=y, train_patient=rng.integers(0, 11, ROWS))
    return path


@pytest.fixture
def stored(tmp_path):
    return write_silos(tmp_path)


def settings(stored, seeds=(0, 1), **data):
    return parse_experiment(
        {
            "rounds": 1,
            "data": {"source": "npz", "path": str(stored), **data},
            "model": {"name": "mlp"},
            "train": {"batch_size": 8},
            "method": {"name": "fedavg"},
            "compare": {"methods": ["local", "fedavg"], "seeds": list(seeds), "folds": FOLDS},
        }
    )


def parts(stored, seed, fold, **data):
    own = settings(stored, **data).data.model_copy(update={"folds": FOLDS, "fold": fold, **data})
    raw = prepare.read_silo(own, "a")
    return raw, *split_rows(raw, own, "a", seed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_tested_once_and_never_by_a_model_that_saw_it_or_its_patient(kind, stored):
    tested = []
    for fold in range(FOLDS):
        raw, split, ids = parts(stored, 0, fold, **KINDS[kind])
        tested += ids.tolist()
        assert np.array_equal(split.test.x, raw.train.x[ids])
        seen = np.concatenate([split.train.x, split.val.x])
        assert len(seen) == ROWS - len(ids)
        assert not (seen[:, None] == split.test.x[None]).all(2).any()
        if "unit_column" in KINDS[kind]:
            assert not {*split.test.units} & {*split.train.units, *split.val.units}
        elif kind == "classes":
            assert np.bincount(split.test.y)[0] in (6, 7)
    assert sorted(tested) == list(range(ROWS))
    other = parts(stored, 1, 0, **KINDS[kind])[2].tolist()
    assert other != tested[: len(other)]  # another seed deals the rows anew


def test_content_moves_no_row_to_another_fold_where_rows_are_prepared_by_record(stored):
    """The same for a private run: which rows are trained on must not depend on what is in them."""
    before = [parts(stored, 0, fold, by_record=True)[2] for fold in range(FOLDS)]
    rows = dict(np.load(stored / "a.npz"))
    np.savez(stored / "a.npz", **{**rows, "train_x": -rows["train_x"], "train_y": rows["train_y"][::-1]})
    after = [parts(stored, 0, fold, by_record=True)[2] for fold in range(FOLDS)]
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_part_that_the_source_gives_is_not_mixed_with_the_others(part, stored):
    rows = dict(np.load(stored / "a.npz"))
    np.savez(stored / "a.npz", **rows, **{f"{part}_x": rows["train_x"][:5], f"{part}_y": rows["train_y"][:5]})
    with pytest.raises(DataError, match="5 (test|validation) rows"):
        parts(stored, 0, 0)


def test_a_silo_needs_a_unit_for_each_fold(stored):
    rows = dict(np.load(stored / "a.npz"))
    np.savez(stored / "a.npz", **{**rows, "train_patient": rows["train_patient"] % 2})
    with pytest.raises(DataError, match="2 different values"):
        parts(stored, 0, 0, unit_column="patient")


@pytest.mark.parametrize(
    ("data", "key"),
    [({"folds": 2}, "compare.folds"), ({"folds": 2, "fold": 2}, "data.fold"), ({"fold": 1}, "data.fold")],
)
def test_settings_of_folds_that_contradict_each_other(data, key, stored):
    with pytest.raises(ConfigError, match=key):
        settings(stored, **data)


def test_no_fold_takes_the_own_models_or_the_settings_of_another(stored, tmp_path):
    """These were trained on rows that this fold tests on."""
    local = comparison_columns(settings(stored))[0]
    runs = [Repeat(seed, fold) for seed in (0, 1) for fold in range(FOLDS)]
    assert len({stored_own_models(tmp_path, local.at(run), "cpu").key for run in runs}) == len(runs)
    assert len({local.folder(run) for run in runs} | {local.trial_folder(0, run) for run in runs}) == 2 * len(
        runs
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    stored = write_silos(tmp_path_factory.mktemp("rows"))
    experiment = settings(stored, unit_column="patient", val=0.3)
    folder = RunFolder.create(stored / "out", experiment)
    with temporary_store() as rows:
        for column in comparison_columns(experiment):
            for repeat in repeats(experiment):
                own, path = column.at(repeat), folder.path / column.folder(repeat)
                if column.kind is Kind.CONSTANT:
                    write_constant(own, RunFolder(path), rows)
                else:
                    run(own, RunFolder.create(path, own), given=Given(rows))
    folders = run_folders(experiment, folder)
    return summarize_runs(experiment, folders), folders


def stored_answers(runs, silo):
    return [run.tensors(f"silos/{silo}/test.safetensors") for run in runs]


def test_a_comparison_pools_the_rows_of_all_folds(compared):
    comparison, folders = compared
    assert comparison.folds == FOLDS
    assert comparison.seeds == (0, 1)
    for method, runs in folders.items():
        assert len(runs) == 2 * FOLDS
        for silo in ("a", "b"):
            found = comparison.methods[method][silo]["accuracy"]
            for seed in (0, 1):
                rows = stored_answers(runs[seed * FOLDS : (seed + 1) * FOLDS], silo)
                assert Counter(i for own in rows for i in own["ids"].tolist()) == dict.fromkeys(
                    range(ROWS), 1
                )
                guess = np.concatenate([own["scores"].argmax(1).numpy() for own in rows])
                y = np.concatenate([own["y"].numpy() for own in rows])
                assert found.seeds[seed] == pytest.approx(metrics.accuracy_score(y, guess))
                balanced = comparison.methods[method][silo]["balanced_accuracy"].seeds[seed]
                assert balanced == pytest.approx(metrics.balanced_accuracy_score(y, guess))
    assert comparison.overall["fedavg"].silos == 2
    assert set(comparison.benefit) == {"a", "b"}


def test_rows_of_one_patient_are_one_unit_in_every_fold_and_seed(compared, stored):
    _, folders = compared
    patient = np.load(stored / "a.npz")["train_patient"]
    for own in stored_answers(folders["fedavg"], "a"):
        names = np.unique(patient)[own["units"].numpy()]
        assert np.array_equal(names, patient[own["ids"].numpy()])


def test_the_constant_answer_is_that_of_each_fold_and_who_is_below_it_is_named(compared):
    comparison, folders = compared
    assert list(comparison.methods) == ["local", "constant", "fedavg"]
    for silo in ("a", "b"):
        share = np.mean(
            [
                float((own["y"] == 0).double().mean()) * len(own["y"])
                for own in stored_answers(folders["local"], silo)
            ]
        )
        own = comparison.methods["constant"][silo]
        assert own["accuracy"].mean == pytest.approx(share * FOLDS / ROWS)
        assert own["balanced_accuracy"].mean == pytest.approx(1 / 3)
        for method in ("local", "fedavg"):
            below = comparison.methods[method][silo]["accuracy"].mean < own["accuracy"].mean
            lines = [
                line for line in comparison.warnings if line.startswith(f"{method} has a worse accuracy")
            ]
            assert any(f"{silo} (" in line for line in lines) == below
