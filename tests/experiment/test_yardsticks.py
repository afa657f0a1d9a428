"""The yardsticks that nobody trains for: two local models averaged, and constant answers."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax, logsumexp
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, log_loss, r2_score, root_mean_squared_error

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.experiment.columns import Repeat, comparison_columns, run_folders
from fedtl.experiment.curves import learning_curves
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import study_data
from fedtl.experiment.study_data import RowStores
from fedtl.experiment.summary import YARDSTICKS
from fedtl.experiment.yardsticks import constant_scores, second_member, write_ensemble
from fedtl.simulation.shared_store import temporary_store
from fedtl.tasks.classification import CLASSIFICATION
from tests.experiment.test_tuning import SILOS, compare_here, experiment_on, write_rows


def rows_of(experiment, name):
    with temporary_store() as store:
        stores = RowStores(store, store)
        schema = read_data_schema(experiment, lambda silo: stores.stored(experiment.data, silo))
        data = study_data(experiment, stores, schema)
        return data.dataset(name), data.evaluation_set(name)


@pytest.fixture(scope="module", params=["classification", "regression"])
def compared(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    rows = write_rows(path / "rows", own_test=False, task=request.param)
    methods = ["local", "local ensemble", "fedavg"]
    experiment = experiment_on(
        rows, data={"task": request.param}, compare={"methods": methods, "seeds": [0, 1]}
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        comparison, _ = compare_here(monkeypatch, experiment, path / "c")
    return experiment, path / "c", comparison


def test_an_ensemble_is_two_local_models_of_the_same_rows_averaged(compared):
    experiment, path, _comparison = compared
    for seed in (0, 1):
        folders = [path / f"runs/local-seed{seed}", path / f"runs/local-ensemble-seed{seed}/second"]
        for name in SILOS:
            tests = [load_file(folder / f"silos/{name}/test.safetensors") for folder in folders]
            mean = load_file(path / f"runs/local-ensemble-seed{seed}/silos/{name}/test.safetensors")
            assert torch.equal(tests[0]["ids"], tests[1]["ids"])
            assert torch.equal(tests[0]["y"], mean["y"])
            scores = [test["scores"].double().numpy() for test in tests]
            assert np.abs(scores[0] - scores[1]).max() > 1e-3  # two models
            if experiment.data.task == "regression":
                wanted = (scores[0] + scores[1]) / 2
            else:
                wanted = logsumexp([log_softmax(one, 1) for one in scores], axis=0) - np.log(2)
            np.testing.assert_allclose(mean["scores"].numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_the_second_model_has_the_same_rows_and_other_initial_weights(compared):
    experiment, _, _ = compared
    local = comparison_columns(experiment)[0].at(Repeat(1))
    second = second_member(local, [0, 1])
    assert second.seed not in (
        0,
        1,
        second_member(comparison_columns(experiment)[0].at(Repeat(0)), [0, 1]).seed,
    )
    for name in SILOS:
        (mine, test), (other, other_test) = rows_of(local, name), rows_of(second, name)
        assert torch.equal(mine.train.x, other.train.x)
        assert torch.equal(mine.val.x, other.val.x)
        assert torch.equal(test.test.x, other_test.test.x)
        moved, _ = rows_of(local.model_copy(update={"seed": second.seed}), name)
        assert not torch.equal(mine.train.x, moved.train.x)  # the seed alone would draw other rows


def test_members_with_different_test_rows_are_refused(compared, tmp_path):
    _, path, _ = compared
    members = [RunFolder(path / f"runs/local-seed{seed}") for seed in (0, 1)]
    with pytest.raises(ValueError, match="different test rows"):
        write_ensemble(RunFolder(tmp_path), members)


def test_constant_answers_are_those_of_scikit_learn(compared):
    experiment, _path, comparison = compared
    classification = experiment.data.task == "classification"
    for name in SILOS:
        data, evaluation_set = rows_of(comparison_columns(experiment)[0].at(Repeat(0)), name)
        y, true = data.train.y.numpy(), evaluation_set.test.y.numpy()
        found = {metric: value.seeds[0] for metric, value in comparison.methods["constant"][name].items()}
        if classification:
            guess = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(y), 1)), y)
            predicted = guess.predict(np.zeros((len(true), 1)))
            shares = (np.bincount(y, minlength=2) + 1) / (len(y) + 2)
            assert found["accuracy"] == accuracy_score(true, predicted)
            assert found["auc"] == 0.5
            assert found["loss"] == pytest.approx(log_loss(true, np.tile(shares, (len(true), 1))), rel=1e-5)
        else:
            predicted = DummyRegressor().fit(np.zeros((len(y), 1)), y).predict(np.zeros((len(true), 1)))
            assert found["rmse"] == pytest.approx(root_mean_squared_error(true, predicted), rel=1e-5)
            assert found["r2"] == pytest.approx(r2_score(true, predicted), abs=1e-4)


def test_rows_without_a_label_count_for_nothing():
    x = torch.zeros(5, 2)
    classes = SiloDataset(
        Dataset(x, torch.tensor([1, 1, 0, -1, -1])), Dataset(x, torch.zeros(5)), ("a", "b", "c")
    )
    assert constant_scores(classes).exp().tolist() == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    values = SiloDataset(
        Dataset(x, torch.tensor([1.0, 3.0, torch.nan, 2.0, 2.0])), Dataset(x, torch.zeros(5)), ()
    )
    assert constant_scores(values).tolist() == [2.0]


def test_an_average_of_probabilities_is_one():
    scores = [torch.tensor([[0.0, 3.0]]), torch.tensor([[100.0, -900.0]])]
    mean = CLASSIFICATION.mixed(scores, [0.5, 0.5]).exp()
    assert float(mean.sum()) == pytest.approx(1.0)
    assert float(mean[0, 1]) == pytest.approx(0.5 / (1 + np.exp(-3.0)))


def test_a_yardstick_is_never_the_best(compared):
    _, _, comparison = compared
    assert list(comparison.methods) == ["local", "constant", "local ensemble", "fedavg"]
    assert {benefit.best for benefit in comparison.benefit.values()} == {"fedavg"}
    assert set(YARDSTICKS) >= {"local", "constant", "local ensemble"}


def test_what_has_no_rounds_has_no_curve(compared):
    experiment, path, _ = compared
    folders = run_folders(experiment, RunFolder(path))
    assert set(learning_curves(experiment, folders)) == {"local", "fedavg"}
    assert "constant" in folders


def test_a_resumed_comparison_keeps_its_yardsticks(compared, monkeypatch):
    experiment, path, comparison = compared
    again, _ = compare_here(monkeypatch, experiment, path)
    assert again == comparison
