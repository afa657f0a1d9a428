"""From stored rows to what a model sees: constants come from a silo's training rows only."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.preprocessing import OneHotEncoder

from fedtl.data.frame import frame_inputs
from fedtl.data.prepare import prepare_silo, read_silo, silo_names
from fedtl.data.preprocess import Inputs, fit_inputs
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.errors import ConfigError, ConstantsError, DataError

TABLE = DataSettings(source="table")
RNG = np.random.default_rng(0)


def gappy(rows, columns=3):
    x = RNG.normal(5, 2, (rows, columns)).astype(np.float32)
    x[RNG.random(x.shape) < 0.2] = np.nan
    return x


def test_only_training_rows_are_learned_from():
    y = np.arange(40) % 2
    raw = Raw(Part(gappy(40), y), Part(gappy(40), y), Part(gappy(40), y), columns=("a", "b", "c"))
    other = replace(raw, val=Part(1e4 * gappy(40), y), test=Part(-1e4 * gappy(40), y))
    first, second = (prepare_silo(r, TABLE, "s", 0, ("0", "1"), frozenset("01")) for r in (raw, other))
    assert first.inputs == second.inputs
    assert torch.equal(first.data.train.x, second.data.train.x)
    assert not torch.equal(first.evaluation_set.test.x, second.evaluation_set.test.x)
    moved = replace(raw, train=Part(raw.train.x + 1, y))
    assert prepare_silo(moved, TABLE, "s", 0, ("0", "1"), frozenset("01")).inputs != first.inputs


def test_missing_values_and_scale_against_numpy():
    x, new = gappy(50), gappy(20)
    inputs = fit_inputs(x, np.arange(50) % 2, ("a", "b", "c"), TABLE, "s")
    fill = np.nanmedian(x.astype(np.float64), axis=0)
    filled = np.where(np.isnan(x), fill, x)
    expected = (np.where(np.isnan(new), fill, new) - filled.mean(0)) / filled.std(0)
    assert np.allclose(inputs.apply(new), expected, atol=1e-5)
    assert np.allclose(inputs.apply(x).mean(0), 0, atol=1e-5)
    assert np.allclose(inputs.apply(x).std(0), 1, atol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(-1000, 1000), min_size=2, max_size=2), min_size=2, max_size=20))
def test_whole_numbers_are_scaled_like_floats(rows):
    x = np.array(rows)
    whole, floats = (
        fit_inputs(v, np.zeros(len(x), int), ("a", "b"), TABLE, "s") for v in (x, x.astype(np.float64))
    )
    assert whole == floats
    assert np.array_equal(whole.apply(x), floats.apply(x.astype(np.float64)))
    assert np.isfinite(whole.apply(x)).all()


def test_columns_that_are_missing_or_constant_become_zero():
    x = np.array([[np.nan, 7.0], [np.nan, 7.0]], np.float32)
    inputs = fit_inputs(x, np.array([0, 1]), ("a", "b"), TABLE, "s")
    assert (inputs.fill, inputs.mean, inputs.std) == ((0.0, 7.0), (0.0, 7.0), (1.0, 1.0))
    assert inputs.apply(x).tolist() == [[0, 0], [0, 0]]


def test_no_scale_leaves_values_and_fills_with_zero():
    inputs = fit_inputs(
        np.ones((4, 2)), np.zeros(4), ("a", "b"), DataSettings(scale="none", task="regression"), "s"
    )
    assert inputs.apply(np.array([[2.5, np.nan]])).tolist() == [[2.5, 0.0]]
    assert (inputs.y_mean, inputs.y_std) == (0.0, 1.0)


def test_the_labels_of_a_regression_are_scaled_too():
    y = RNG.normal(20, 3, 30).astype(np.float32)
    inputs = fit_inputs(gappy(30), y, ("a", "b", "c"), DataSettings(task="regression"), "s")
    assert inputs.y_mean == pytest.approx(y.astype(np.float64).mean())
    assert inputs.y_std == pytest.approx(y.astype(np.float64).std())
    assert fit_inputs(gappy(30), np.arange(30), ("a", "b", "c"), TABLE, "s").y_std == 1.0


def declared(tmp_path, text, **more):
    """``text``: of the file; None: there is none."""
    path = tmp_path / "constants.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return DataSettings(scale=str(path), **more)


def test_declared_constants(tmp_path):
    chosen = declared(tmp_path, "[a]\nmean = 1\nstd = 2\n[b]\nmean = 0.5\nstd = 1\nfill = 3\n")
    inputs = fit_inputs(gappy(4, 2), np.zeros(4, int), ("a", "b"), chosen, "s")
    assert inputs.apply(np.array([[5, np.nan], [np.nan, 1.5]])).tolist() == [[2, 2.5], [0, 1]]
    regression = declared(tmp_path, "[a]\nmean = 1\nstd = 2\n[label]\nmean = 9\nstd = 4\n", task="regression")
    inputs = fit_inputs(gappy(4, 1), np.ones(4), ("a",), regression, "s")
    assert (inputs.y_mean, inputs.y_std) == (9.0, 4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[b]\nmean = 1\nstd = 1\n", r"in \[a\]"),
        ("[b]\nmean = 1\n", r"std in \[b\]"),
        ("a = 3\n", "outside of a table"),
        ("[a]\nmean = 1\nstd = 1\n[b]\nmean = 1\nstd = 0\n", "std of"),
        ("[a]\nmean = 1\n", r"std in \[a\]"),
        ("[a]\nmean = true\nstd = 1\n", r"mean in \[a\]"),
        ("[a]\nmean = nan\nstd = 1\n", r"mean in \[a\]"),
        ("[a]\nmean = 1\nstd = 0\n", "std of"),
        ("[a]\nmean = inf\nstd = 1\n", r"mean in \[a\]"),
        (f"[a]\nmean = {10**400}\nstd = 1\n", r"mean in \[a\]"),
        ("[a]\nmean = 1\nstd = 1\nfill = nan\n", r"fill in \[a\]"),
        ("[a]\nmean = 1\nstd = 1\nfil = 2\n", r"'fil' in \[a\]"),
        ("mean = = 1", "not TOML"),
        ('{"a": {"mean": 1, "std": 1}}', "not TOML"),
        ("[a]\nmean = 1\nst", "not TOML"),
        (f"[a]\nmean = {'9' * 5000}\nstd = 1\n", "not TOML"),
        (f"a = {'[' * 3000}", "not TOML"),
        (b"[\xff]\nmean = 1\nstd = 1\n", "not TOML"),
        (f"# {'x' * 10_000_000}", "10,000,002 bytes"),
        (None, "no such file"),
    ],
    ids=range(20),
)
def test_declared_constants_with_mistakes(tmp_path, text, message):
    with pytest.raises(ConstantsError, match=message):
        fit_inputs(gappy(4, 1), np.zeros(4, int), ("a",), declared(tmp_path, text), "s")


def test_declared_constants_are_not_for_pixels(tmp_path):
    with pytest.raises(DataError, match="data.scale"):
        fit_inputs(np.zeros((4, 8, 8), np.uint8), np.zeros(4, int), (), declared(tmp_path, ""), "s")


def test_declared_constants_of_the_channels_of_images_of_floats(tmp_path):
    chosen = declared(tmp_path, '[1]\nmean = 10\nstd = 2\nfill = 12\n["*"]\nmean = 1\nstd = 4\n')
    x = RNG.normal(3, 2, (5, 4, 4, 3)).astype(np.float32)
    x[0, 0, 0] = np.nan
    inputs = fit_inputs(x, np.zeros(5, int), (), chosen, "s")
    filled = np.where(np.isnan(x), [1, 12, 1], x)
    expected = (filled - [1, 10, 1]) / [4, 2, 4]
    assert np.allclose(inputs.apply(x), expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert inputs.origin == "declared"


def test_constants_carry_their_origin(tmp_path):
    x, y = gappy(30), np.linspace(0, 1, 30)
    regression = DataSettings(source="npz", task="regression")
    learned = fit_inputs(x, y, ("a", "b", "c"), regression, "s")
    assert (learned.origin, learned.label_origin) == ("learned", "learned")
    pixels = fit_inputs(np.zeros((30, 8, 8), np.uint8), y, (), regression, "s")
    assert (pixels.origin, pixels.label_origin) == ("declared", "learned")
    none = fit_inputs(x, y, ("a", "b", "c"), regression.model_copy(update={"scale": "none"}), "s")
    assert (none.origin, none.label_origin) == ("declared", "declared")


def test_bounds_become_minus_one_and_one_and_missing_values_the_fill_value():
    chosen = DataSettings(scale="dp", bounds={"a": [0, 10], "*": [-100, 300, 0]})
    inputs = fit_inputs(np.zeros((4, 2)), np.zeros(4, int), ("a", "b"), chosen, "s")
    x = np.array([[0, -100], [10, 300], [5, 100], [1e9, -1e9], [np.nan, np.nan], [np.inf, -np.inf]])
    expected = [[-1, -1], [1, 1], [0, 0], [1, -1], [0, -0.5], [0, -0.5]]
    assert np.allclose(inputs.apply(x), expected)
    assert inputs.origin == "released"


def test_a_column_without_bounds_is_named():
    with pytest.raises(ConfigError, match="data.bounds.b"):
        fit_inputs(
            np.zeros((4, 2)), np.zeros(4), ("a", "b"), DataSettings(scale="dp", bounds={"a": [0, 1]}), "s"
        )


def test_pixels_stay_pixels():
    x = RNG.integers(0, 256, (5, 8, 8)).astype(np.uint8)
    inputs = fit_inputs(x, np.zeros(5, int), (), DataSettings(), "s")
    assert inputs.apply(x).dtype == np.uint8
    assert np.array_equal(inputs.apply(x), x[:, None])
    colour = RNG.integers(0, 256, (5, 8, 6, 3)).astype(np.uint8)
    assert np.array_equal(inputs.apply(colour), colour.transpose(0, 3, 1, 2))


def test_images_of_floats_are_scaled_by_channel():
    x = RNG.normal(3, 2, (6, 5, 5, 3)).astype(np.float16)
    y = fit_inputs(x, np.zeros(6, int), (), DataSettings(), "s").apply(x)
    assert (y.shape, y.dtype) == ((6, 3, 5, 5), np.float32)
    assert np.allclose(y.mean((0, 2, 3)), 0, atol=1e-3)
    assert np.allclose(y.std((0, 2, 3)), 1, atol=1e-3)


def test_grey_to_colour_and_back():
    grey = RNG.integers(0, 256, (3, 4, 4)).astype(np.uint8)
    colour = Inputs("native", 3, ()).apply(grey)
    assert colour.shape == (3, 3, 4, 4)
    assert all(np.array_equal(colour[:, c], grey) for c in range(3))
    rgb = RNG.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    seen = Inputs("native", 1, ()).apply(rgb)
    by_pil = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in rgb])
    assert seen.dtype == np.uint8
    assert np.abs(seen[:, 0].astype(int) - by_pil).max() <= 1
    assert np.array_equal(Inputs("native", 1, ()).apply(colour.transpose(0, 2, 3, 1))[:, 0], grey)


def test_four_channels_are_neither_grey_nor_colour():
    with pytest.raises(DataError, match="data.channels = 3"):
        Inputs("native", 3, ()).apply(np.zeros((2, 4, 4, 4), np.uint8))


@pytest.mark.parametrize("size", [5, 8, 16, 28])
def test_resizing_is_bilinear_with_antialias(size):
    x = RNG.integers(0, 256, (4, 16, 12)).astype(np.uint8)
    seen = Inputs(size, "native", ()).apply(x)
    bilinear = Image.Resampling.BILINEAR
    by_pil = np.stack([np.asarray(Image.fromarray(image).resize((size, size), bilinear)) for image in x])
    assert (seen.shape, seen.dtype) == ((4, 1, size, size), np.uint8)
    assert np.abs(seen[:, 0].astype(int) - by_pil).max() <= 1
    constant = Inputs(size, "native", ()).apply(np.full((2, 16, 12), 77, np.uint8))
    assert (constant == 77).all()


def test_many_rows_are_resized_like_few():
    x = RNG.integers(0, 256, (2100, 6, 6)).astype(np.uint8)
    seen = Inputs(4, "native", ()).apply(x)
    assert np.array_equal(seen[1500:1510], Inputs(4, "native", ()).apply(x[1500:1510]))
    assert Inputs(4, "native", ()).apply(x[:0]).shape == (0, 1, 4, 4)


def constants_in_numpy(values):
    """Fill value, mean and standard deviation of one column in float64."""
    values = values.astype(np.float64)
    present = values[~np.isnan(values)]
    if not len(present):
        return 0.0, 0.0, 1.0
    fill = float(np.median(present))
    filled = np.where(np.isnan(values), fill, values)
    constant = filled.std() <= len(filled) * abs(filled.mean()) * np.finfo(float).eps
    return fill, float(filled.mean()), 1.0 if constant else float(filled.std())


@pytest.mark.parametrize("seed", range(20))
def test_constants_are_those_of_numpy_to_the_bit(seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(2, 3000), rng.integers(1, 6)
    x = rng.normal(rng.normal(0, 100, columns), 10.0 ** rng.uniform(-3, 4, columns), (rows, columns))
    x[rng.random(x.shape) < 0.2] = np.nan
    x = x.astype(np.float32)
    y = rng.normal(9, 2, rows).astype(np.float32)
    inputs = fit_inputs(x, y, tuple("abcdef"[:columns]), DataSettings(task="regression"), "s")
    assert list(zip(inputs.fill, inputs.mean, inputs.std, strict=True)) == [
        constants_in_numpy(column) for column in x.T
    ]
    assert (inputs.y_mean, inputs.y_std) == (y.astype(np.float64).mean(), y.astype(np.float64).std())


@pytest.mark.parametrize(("name", "key"), [("heart-disease", "label"), ("school", ""), ("spoken-digits", "")])
def test_constants_of_real_data_are_those_of_numpy_to_the_bit(name, key, shared_data):
    source = {"source": "table", "label": "num", "positive_above": 0} if key else {"source": "npz"}
    task = "regression" if name == "school" else "classification"
    settings = DataSettings(path=str(shared_data(name)), task=task, **source)
    for silo in silo_names(settings)[:5]:
        train = read_silo(settings, silo).train
        inputs = fit_inputs(train.x, train.y, (), settings, silo)
        columns = train.x.T if train.x.ndim == 2 else [train.x.reshape(-1)]
        expected = [] if train.x.dtype == np.uint8 else [constants_in_numpy(column) for column in columns]
        assert list(zip(inputs.fill, inputs.mean, inputs.std, strict=True)) == expected


def test_categories_are_encoded_as_scikit_learn_encodes_them():
    cells = RNG.choice(np.array(["f", "m", "x", None], object), 50)
    frame = pd.DataFrame({"sex": cells, "label": np.arange(50) % 2})
    encoder = OneHotEncoder(categories=[["m", "f", "x"]], handle_unknown="ignore", sparse_output=False)
    settings = DataSettings(source="table", categories={"sex": ["m", "f", "x"]})
    for by_record in (False, True):
        chosen = settings.model_copy(update={"by_record": by_record})
        names, x = frame_inputs(frame, chosen, "here")
        assert names == ("sex=m", "sex=f", "sex=x")
        assert np.array_equal(x, encoder.fit_transform(cells[:, None]))


@pytest.mark.parametrize("y", [np.full(20, np.nan), np.array(["a", "b"] * 10), np.array([1e300, 2.0] * 10)])
def test_with_by_record_labels_that_are_not_numbers_do_not_stop_a_silo(y):
    """Private training refuses the origin of the scale; before that no row is refused for its content."""
    chosen = DataSettings(source="npz", task="regression", by_record=True)
    made = prepare_silo(Raw(Part(gappy(20), y), columns=("a", "b", "c")), chosen, "s", 0, (), frozenset())
    assert (made.inputs.label_origin, made.data.origins.label_scale) == ("learned", "learned")
    assert np.isfinite([made.inputs.y_mean, made.inputs.y_std]).all()
    assert bool(made.data.train.y.isnan().any())


@pytest.mark.parametrize("wrong", ["agee", "height"])
def test_a_star_does_not_hide_a_declared_name_that_is_misspelt(wrong, tmp_path):
    rows = np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1])
    text = f'[{wrong}]\nmean = 1\nstd = 4\n["*"]\nmean = 1\nstd = 4\n'
    with pytest.raises(ConstantsError, match=f"'{wrong}', which"):
        fit_inputs(*rows, ("age", "bmi"), declared(tmp_path, text), "a")
    bounds = DataSettings(scale="dp", bounds={wrong: [0, 10], "*": [-100, 300]})
    with pytest.raises(ConfigError, match=f"'{wrong}', which"):
        fit_inputs(*rows, ("age", "bmi"), bounds, "a")
    named = declared(tmp_path, text.replace(wrong, "age"))
    assert fit_inputs(*rows, ("age", "bmi"), named, "a").std == (4, 4)
