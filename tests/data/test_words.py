"""A column of text: its words are hashed as scikit-learn's hash says, by nothing that rows hold, and keep their scale."""

import re

import numpy as np
import pytest
from sklearn.utils import murmurhash3_32

from fedtl.data.input_files import read_inputs
from fedtl.data.prepare import prepare_silo, read_silo
from fedtl.data.settings import DataSettings
from fedtl.data.words import hashed_words
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment

NOTES = ["Fever since Monday, fever again", "no fever", "", "A cough. Übelkeit seit Montag"] * 10
WIDTH = 16


def by_hand(text):
    counts = np.zeros(WIDTH)
    for word in re.findall(r"\w\w+", text.lower()):
        number = murmurhash3_32(word, seed=0)
        counts[abs(number) % WIDTH] += 1 if number >= 0 else -1
    return counts / (np.sqrt((counts**2).mean()) or 1)


def settings(path, **changes):
    lines = [f'{number},"{note}",{"ny"[number % 2]}' for number, note in enumerate(NOTES)]
    (path / "a.csv").write_text("\n".join(["v,note,label", *lines]) + "\n")
    more = {"source": "table", "path": str(path), "text": ["note"], "text_width": WIDTH}
    return DataSettings(**(more | changes))


def test_words_become_signed_counts_of_unit_mean_square():
    found = hashed_words([*NOTES, None], WIDTH)
    assert np.allclose(found, [by_hand(text) for text in [*NOTES, ""]])


@pytest.mark.parametrize("by_record", [False, True])
def test_the_scale_of_words_is_not_learned_and_that_of_numbers_is(by_record, tmp_path):
    chosen = settings(tmp_path, by_record=by_record)
    raw = read_silo(chosen, "a")
    assert raw.columns == ("v", *(f"note#{number}" for number in range(WIDTH)))
    assert np.allclose(raw.train.x[:, 1:], [by_hand(note) for note in NOTES])
    inputs = prepare_silo(raw, chosen, "a", 0, ("n", "y"), frozenset("ny")).inputs
    made = inputs.apply(raw.train.x)
    assert np.allclose(made[:, 1:], raw.train.x[:, 1:], atol=1e-6)
    assert inputs.std[0] > 5


def test_a_file_of_constants_needs_no_entry_for_words(tmp_path):
    (tmp_path / "scale.toml").write_text("v = { mean = 10.0, std = 2.0 }\n")
    chosen = settings(tmp_path, scale=str(tmp_path / "scale.toml"))
    raw = read_silo(chosen, "a")
    made = prepare_silo(raw, chosen, "a", 0, ("n", "y"), frozenset("ny")).inputs.apply(raw.train.x)
    assert np.allclose(made[:, 0], (np.arange(40) - 10) / 2)
    assert np.allclose(made[:, 1:], raw.train.x[:, 1:], atol=1e-6)


def test_new_texts_have_the_same_inputs(tmp_path):
    chosen = settings(tmp_path)
    raw = read_silo(chosen, "a")
    inputs = prepare_silo(raw, chosen, "a", 0, ("n", "y"), frozenset("ny")).inputs
    (tmp_path / "new.csv").write_text('note,v\n"no fever",1\n,2\n')
    x = read_inputs(tmp_path / "new.csv", chosen, inputs, (1 + WIDTH,)).x
    assert np.allclose(x, [[1, *by_hand("no fever")], [2, *np.zeros(WIDTH)]])


def test_texts_that_are_not_read_as_words_are_counted(tmp_path):
    chosen = settings(tmp_path)
    assert read_silo(chosen, "a").unread == ()
    (tmp_path / "a.csv").write_text("v,note,label\n1,头痛 fever,n\n2,A -,y\n3,,n\n4,pain,y\n5,ปวดหัว,y\n")
    script, empty = read_silo(chosen, "a").unread
    assert script.startswith("2 of 4 texts of note are")
    assert empty.startswith("1 of 4 texts of note")


def test_a_column_of_sentences_is_proposed_as_text(tmp_path):
    lines = [f'"note number {number} of many",{number % 2}' for number in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["note,label", *lines]))
    with pytest.raises(DataError, match="data.text = "):
        read_silo(DataSettings(source="table", path=str(tmp_path)), "a")


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["data.scale=dp", "privacy.epsilon=3"], "its words have a fixed scale"),
        (["data.hashed=['note']"], "is in data.hashed and in data.text"),
        (["data.source=npz"], "data.text is a setting of"),
    ],
)
def test_settings_that_contradict_text_are_refused(sets, says, tmp_path):
    source = [] if sets == ["data.source=npz"] else ["data.source=table"]
    base = [*source, f"data.path={tmp_path}", "data.silos=[]", "data.text=['note']"]
    with pytest.raises(ConfigError) as error:
        load_experiment("digits", [*base, "data.bounds={'*'=[-1.0,1.0]}", *sets])
    assert says in str(error.value)
