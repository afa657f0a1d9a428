"""Target encoding equals scikit-learn's with cross-fitting; no training row's label is in its own input; and what is refused."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.model_selection import KFold
from sklearn.preprocessing import TargetEncoder

from fedtl._util.randomness import address
from fedtl._util.records import from_plain
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.target_encoding import TargetTable, encoded_rows, fit_tables
from fedtl.errors import ConfigError, DataError

SETTINGS = DataSettings(source="table", target_encoded=["b"])
RNG = np.random.default_rng(0)
X = np.stack([RNG.normal(size=60), RNG.choice([3.0, 5.0, 2.0**47, np.nan], 60)], 1)
Y = (RNG.random(60) < np.where(X[:, 1] == 3, 0.9, 0.2)).astype(float)


@pytest.mark.parametrize("y", [Y, 1e6 + Y * 30 + X[:, 0]], ids=["classes", "values"])
def test_training_rows_are_cross_fitted_and_others_are_not(y):
    """Against TargetEncoder.fit_transform and transform."""
    settings = SETTINGS.model_copy(update={"task": "regression"})
    (table,), made = fit_tables(X, y, ("a", "b"), settings, 7, "north")
    folds = KFold(5, shuffle=True, random_state=address("target", 7, "north", "b") % 2**32)
    encoder = TargetEncoder(target_type="continuous", cv=folds)
    np.testing.assert_allclose(made[:, 1], encoder.fit_transform(X[:, 1:], y)[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(made[:, 0], X[:, 0])
    new = np.array([[0, 5.0], [1, 4.0], [2, np.nan], [3, 2.0**48]])
    np.testing.assert_allclose(
        encoded_rows(new, [table])[:, 1], encoder.transform(new[:, 1:])[:, 0], rtol=1e-12
    )


def test_a_column_that_names_the_rows_tells_no_label():
    """Without cross-fitting each row's input would be its own label, drawn a little towards the mean."""
    x = np.arange(60.0)[:, None]
    (table,), made = fit_tables(x, Y, ("b",), SETTINGS, 0, "north")
    folds = {round(value, 12) for value in made[:, 0].tolist()}
    assert len(folds) <= 5  # a row of a value that no other fold has gets the mean of the other folds
    assert encoded_rows(x, [table])[:, 0].std() > 0


def test_tables_are_kept_with_the_inputs_and_used_before_scaling():
    tables, made = fit_tables(X, Y, ("a", "b"), SETTINGS, 0, "north")
    inputs = Inputs("native", "native", ("a", "b"), (0.0, 0.0), (0.0, 0.5), (1.0, 2.0), tables=tables)
    again = tuple(from_plain(TargetTable, one) for one in json.loads(json.dumps(asdict(inputs)))["tables"])
    assert again == tables
    wanted = (encoded_rows(X, tables) - [0, 0.5]) / [1, 2]
    np.testing.assert_allclose(inputs.apply(X), wanted, rtol=1e-6)
    np.testing.assert_allclose(replace(inputs, tables=()).apply(made), (made - [0, 0.5]) / [1, 2], rtol=1e-6)


def test_more_than_two_classes_are_refused():
    with pytest.raises(DataError, match="3 classes"):
        fit_tables(X, Y + (X[:, 0] > 1), ("a", "b"), SETTINGS, 0, "north")


def test_privacy_refuses_it():
    from fedtl.experiment.config.load import load_experiment

    sets = ["data.source=memory", 'data.target_encoded=["b"]', "privacy.epsilon=3"]
    with pytest.raises(ConfigError, match="data.target_encoded"):
        load_experiment("digits", [*sets, "data.limit=0", "data.silos=[]"])
