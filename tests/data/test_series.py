"""Series of measurements: read in the order of time, cut and filled up as declared, scaled by channel, never as pictures."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.data import memory
from fedtl.data.input_files import read_inputs
from fedtl.data.memory import rows_in_memory
from fedtl.data.prepare import input_shape, prepare_silo, read_silo
from fedtl.data.settings import DataSettings, DealSettings, SequenceSettings
from fedtl.errors import ConfigError, DataError
from fedtl.experiment import image_notes
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.data_schema import read_data_schema

RNG = np.random.default_rng(0)
X, Y = RNG.normal(3, 2, (40, 7, 3)), np.arange(40) % 2
TABLE = SequenceSettings(id="who", time="t", length=5)


def arrays(path, sequence=None, columns=(), **parts):
    np.savez(path / "a.npz", **({"train_x": X, "train_y": Y} | parts))
    sequence = sequence or SequenceSettings()
    return DataSettings(source="npz", path=str(path), sequence=sequence, columns=list(columns))


def table(path, frame, **changes):
    frame.to_csv(path / "a.csv", index=False)
    return DataSettings(**({"source": "table", "path": str(path), "sequence": TABLE} | changes))


def long_table(lengths, seed=0):
    """Rows in random order: series number s has the values 100 s + its time, and 0.5 in a second channel."""
    rows = [
        (f"p{series}", step, 100 * series + step, 0.5, "ny"[series % 2])
        for series, steps in enumerate(lengths)
        for step in range(steps)
    ]
    frame = pd.DataFrame(rows, columns=["who", "t", "v", "w", "label"])
    return frame.sample(frac=1, random_state=seed)


def made(chosen):
    raw = read_silo(chosen, "a")
    return raw, prepare_silo(raw, chosen, "a", 0, ("0", "1"), frozenset("01"))


def test_arrays_are_scaled_by_channel_over_their_own_training_steps(tmp_path):
    raw, prepared = made(arrays(tmp_path))
    assert raw.columns == ("0", "1", "2")
    assert prepared.data.train.x.shape[1:] == (3, 7)
    train = prepared.data.train.x.numpy()
    assert np.allclose(train.mean((0, 2)), 0, atol=1e-5)
    assert np.allclose(train.std((0, 2)), 1, atol=1e-5)
    stored = {tuple(np.float32(row.T).ravel()) for row in X}
    back = train * np.reshape(prepared.inputs.std, (1, -1, 1)) + np.reshape(prepared.inputs.mean, (1, -1, 1))
    first = np.array(sorted(stored))
    assert all(np.abs(first - one.ravel()).max(1).min() < 1e-4 for one in back)


@pytest.mark.parametrize(
    ("x", "sequence", "shape"),
    [
        (X, SequenceSettings(), (3, 7)),
        (X.astype(np.float16), SequenceSettings(length=9), (3, 9)),
        (X.transpose(0, 2, 1), SequenceSettings(channels_first=True), (3, 7)),
        (X[:, :, 0], SequenceSettings(), (1, 7)),
        ((X * 20).astype(np.int16), SequenceSettings(length=4), (3, 4)),
        (np.abs(X).astype(np.uint8), SequenceSettings(), (3, 7)),
    ],
)
def test_every_form_of_array_becomes_channels_by_steps(x, sequence, shape, tmp_path):
    chosen = arrays(tmp_path, sequence, train_x=x)
    raw = read_silo(chosen, "a")
    assert input_shape(raw, chosen) == shape
    steps = min(shape[1], 7)
    plain = x[:, :, None] if x.ndim == 2 else x.transpose(0, 2, 1) if sequence.channels_first else x
    assert np.array_equal(raw.train.x[:, :steps], plain[:, :steps])
    assert np.isnan(raw.train.x[:, steps:]).all()
    assert len(raw.unread) == (shape[1] != 7)


def test_missing_steps_take_the_median_of_the_channel_and_infinite_ones_are_refused(tmp_path):
    x = X.copy()
    x[:, 6, 1] = np.nan
    _, prepared = made(arrays(tmp_path, train_x=x))
    train = prepared.data.train.x.numpy()
    assert np.ptp(train[:, 1, 6]) == 0
    assert np.isfinite(train).all()
    x[3, 2, 0] = np.inf
    with pytest.raises(DataError, match="series hold 1 values"):
        read_silo(arrays(tmp_path, train_x=x), "a")


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=12), st.integers(0, 99))
def test_rows_of_a_table_become_series_in_the_order_of_time(tmp_path_factory, lengths, seed):
    chosen = table(tmp_path_factory.mktemp("t"), long_table(lengths, seed))
    raw = read_silo(chosen, "a")
    assert raw.columns == ("v", "w")
    for name, row, label in zip(
        sorted(f"p{n}" for n in range(len(lengths))), raw.train.x, raw.train.y, strict=True
    ):
        number = int(name[1:])
        steps = min(lengths[number], 5)
        assert row[:steps, 0].tolist() == [100 * number + step for step in range(steps)]
        assert np.isnan(row[steps:]).all()
        assert label == "ny"[number % 2]
    assert len(raw.unread) == any(n > 5 for n in lengths) + any(n < 5 for n in lengths)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.assign(t=f.t.clip(0, 1)), "the who and t of another row"),
        (lambda f: f.assign(label=f.label.where(f.t > 0, "x")), "of different label"),
        (lambda f: f.assign(t="soon"), "t is 'soon'"),
        (lambda f: f.assign(who=f.who.where(f.t > 0, None)), "have no 'who'"),
        (lambda f: f.drop(columns="t"), "no column 't'"),
    ],
)
def test_a_table_that_is_no_set_of_series_is_refused(change, says, tmp_path):
    with pytest.raises(DataError) as error:
        read_silo(table(tmp_path, change(long_table([4, 4, 4, 4]))), "a")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gap_in_time_is_said_to_be_unread(tmp_path):
    frame = long_table([5, 5, 5, 5])
    assert read_silo(table(tmp_path, frame), "a").unread == ()
    frame["t"] += (frame.t > 2) & (frame.who == "p1")  # the step of time 3 is missing
    (line,) = read_silo(table(tmp_path, frame), "a").unread
    assert "in 1 of 4 series" in line


def test_dates_order_steps_and_a_whole_table_is_dealt_by_series(tmp_path):
    frame = long_table([3] * 60)
    day = pd.Timestamp("2026-01-30 23:00")
    frame["t"] = [(day + pd.Timedelta(hours=step)).isoformat(" ") for step in frame.t]
    dealt = {"deal": DealSettings(silos=3, by="iid"), "path": str(tmp_path / "a.csv")}
    chosen = table(tmp_path, frame).model_copy(update=dealt)
    silos = [read_silo(chosen, f"silo-{number}") for number in (1, 2, 3)]
    assert [len(silo.train.y) for silo in silos] == [20, 20, 20]
    rows = np.concatenate([silo.train.x for silo in silos])
    assert (np.diff(rows[:, :3, 0]) == 1).all()
    assert sorted(rows[:, 0, 0].tolist()) == [100.0 * number for number in range(60)]


def test_new_series_are_found_by_the_names_of_their_channels(tmp_path):
    chosen = table(tmp_path, long_table([5, 3, 6, 5]))
    raw = read_silo(chosen, "a")
    prepared = prepare_silo(raw, chosen, "a", 0, ("n", "y"), frozenset("ny"))
    new = long_table([5, 2])[["w", "label", "v", "t", "who"]]
    new.to_csv(tmp_path / "new.csv", index=False)
    rows = read_inputs(tmp_path / "new.csv", chosen, prepared.inputs, (2, 5))
    assert (rows.files, rows.column) == (("p0", "p1"), "who")
    assert np.array_equal(rows.x[0], raw.train.x[0])
    assert "1 of 2 series have fewer" in rows.notes[0]
    np.savez(tmp_path / "new.npz", x=rows.x[:, :, ::-1], columns=["w", "v"])
    again = read_inputs(tmp_path / "new.npz", chosen, prepared.inputs, (2, 5))
    assert np.array_equal(again.x, rows.x, equal_nan=True)


def test_rows_in_memory_are_read_as_files_are(tmp_path):
    frame = long_table([4, 5, 6, 4])
    stored = read_silo(table(tmp_path, frame), "a").train
    _, raws = rows_in_memory({"a": frame}, DataSettings(sequence=TABLE))
    assert np.array_equal(raws["a"].train.x, stored.x, equal_nan=True)
    _, raws = rows_in_memory({"a": (X, Y)}, DataSettings(sequence=SequenceSettings()))
    assert np.array_equal(raws["a"].train.x, X)


@pytest.mark.parametrize(("shape", "refused"), [((30, 2), True), ((90, 9), True), ((8, 8), False)])
def test_numbers_without_the_shape_of_a_picture_are_not_read_as_one(shape, refused, tmp_path):
    np.savez(tmp_path / "a.npz", train_x=RNG.normal(size=(20, *shape)), train_y=np.arange(20) % 2)
    sets = ["data.source=npz", f"data.path={tmp_path}", "data.silos=[]"]
    if not refused:
        assert read_data_schema(load_experiment("digits", sets)).shape == (1, *shape)
        return
    with pytest.raises(DataError, match="data.sequence = "):
        read_data_schema(load_experiment("digits", sets))
    found = read_data_schema(load_experiment("digits", [*sets, "data.sequence={}", "model.name=gru"]))
    assert found.shape == shape[::-1]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["data.source=digits", "data.sequence={}"], 'only sources "npz"'),
        (["data.source=npz", "data.sequence={}", "data.size=8"], "data.size is for images"),
        (["data.source=npz", "data.sequence={id='a'}"], "are columns of a table"),
        (["data.source=table", "data.sequence={id='a', time='t'}"], "data.sequence.length is missing"),
        (
            ["data.source=table", "data.sequence={id='a', time='t', length=3}", "privacy.epsilon=3"],
            "one row can change another series",
        ),
        (
            ["data.source=memory", "data.sequence={id='a', time='t', length=3}", "privacy.epsilon=3"],
            "one row can change another series",
        ),
        (["data.source=table", "data.sequence={id='label', time='t', length=3}"], "the column 'label'"),
    ],
)
def test_settings_that_contradict_series_are_refused(sets, says, tmp_path):
    path = [] if {"data.source=digits", "data.source=memory"} & set(sets) else [f"data.path={tmp_path}"]
    with pytest.raises(ConfigError) as error:
        load_experiment("digits", [*sets, *path, "data.silos=[]"])
    assert says in str(error.value)


def test_the_series_of_a_frame_depend_on_other_rows():
    """Arrays do not: so a study under [privacy] refuses the first and takes the second."""
    assert memory.learns(DataSettings(source="memory", sequence=TABLE)) == {"split"}
    assert not memory.learns(DataSettings(source="memory", sequence=SequenceSettings()))


def test_steps_of_several_lengths_are_noted(tmp_path):
    def told(step):
        for silo, by in (("a", 1.0), ("b", step)):
            long_table([4] * 12).assign(t=lambda rows, by=by: rows.t * by).to_csv(
                tmp_path / f"{silo}.csv", index=False
            )
        sets = ["data.source=table", f"data.path={tmp_path}", "model.name=gru", "data.silos=[]"]
        series = ["data.sequence.id=who", "data.sequence.time=t", "data.sequence.length=4"]
        experiment = load_experiment("digits", [*sets, *series])
        schema = read_data_schema(experiment)
        return list(image_notes.image_notes(experiment.data, schema.silos))

    assert not told(1.2)
    (note,) = told(60.0)
    assert "several lengths (a: 1; b: 60, of dates" in note
