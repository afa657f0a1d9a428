"""A column of text as the numbers of its tokens: as the tokenizer gives them, the same whatever the other rows are, and never scaled."""

import pytest

from fedtl.data.input_files import read_inputs
from fedtl.data.prepare import prepare_silo, read_silo
from fedtl.data.settings import DataSettings
from fedtl.data.tokens import token_codes
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from tests.models.text_folders import MARKS, WORDS, write_tokenizer

NOTES = ["No fever", "severe cough, the chest clear of pain today", "", "fever"] * 10
WIDTH = 8
NUMBER = {token: number for number, token in enumerate([*MARKS, *WORDS])}


def codes(*words):
    numbers = [NUMBER[word] + 1 for word in ("[CLS]", *words, "[SEP]")]
    return [*numbers, *[0] * (WIDTH - len(numbers))]


EXPECTED = [
    codes("no", "fever"),
    codes("severe", "cough", "[UNK]", "the", "chest", "clear"),
    codes(),
    codes("fever"),
]


@pytest.fixture
def tokenizer(tmp_path):
    pytest.importorskip("tokenizers")
    write_tokenizer(tmp_path / "tokenizer.json")
    return str(tmp_path / "tokenizer.json")


def settings(tmp_path, tokenizer, **changes):
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = [f'{number},"{note}",{"ny"[number % 2]}' for number, note in enumerate(NOTES)]
    (folder / "a.csv").write_text("\n".join(["age,note,label", *lines]) + "\n")
    more = {"text": ["note"], "text_width": WIDTH, "tokenizer": tokenizer, "columns": ["note"]}
    return DataSettings.model_validate({"source": "table", "path": str(folder), **more, **changes})


def test_codes_are_the_tokenizer_s_numbers_plus_one(tokenizer):
    """A long text is cut before its mark of the end; a missing one is an empty one."""
    texts = [*NOTES[:2], None, NOTES[3]]
    assert token_codes(texts, tokenizer, WIDTH).tolist() == EXPECTED
    for text, row in zip(texts, EXPECTED, strict=True):
        assert token_codes([text], tokenizer, WIDTH).tolist() == [row]


@pytest.mark.parametrize("changes", [{"scale": "silo"}, {"scale": "none", "by_record": True}])
def test_codes_keep_their_values_in_training_and_for_new_rows(changes, tokenizer, tmp_path):
    chosen = settings(tmp_path, tokenizer, **changes)
    raw = read_silo(chosen, "a")
    assert raw.columns == tuple(f"note#{number}" for number in range(WIDTH))
    assert raw.train.x.tolist() == EXPECTED * 10
    inputs = prepare_silo(raw, chosen, "a", 0, ("n", "y"), frozenset("ny")).inputs
    assert inputs.apply(raw.train.x).tolist() == EXPECTED * 10
    (tmp_path / "new.csv").write_text('note\nfever\n""\n')
    x = read_inputs(tmp_path / "new.csv", chosen, inputs, (WIDTH,)).x
    assert inputs.apply(x).tolist() == [EXPECTED[3], EXPECTED[2]]


@pytest.mark.parametrize("content", ["{}", "no JSON"])
def test_another_file_is_refused(content, tokenizer, tmp_path):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(DataError, match="not a tokenizer.json"):
        read_silo(settings(tmp_path, str(tmp_path / "other.json")), "a")


def model_folder(tmp_path, *files):
    (tmp_path / "model").mkdir()
    for file in files:
        (tmp_path / "model" / file).write_text("{}")
    return tmp_path / "model"


ALL = ("config.json", "tokenizer.json", "model.safetensors")
REFUSED = [
    ((), [], "there is no config.json in it; put the config.json of the model there"),
    (ALL[:1], [], "there is no tokenizer.json in it; put"),
    ((*ALL[:1], "vocab.txt"), [], "there is no tokenizer.json in it; save its fast tokenizer there"),
    (ALL[:2], [], "there is no model.safetensors in it; put"),
    ((*ALL[:2], "pytorch_model.bin"), [], "its weights are pickled, and fedtl loads none"),
    ((*ALL[:2], "model-00001-of-00002.safetensors"), [], "its weights are in several files"),
    (ALL, ["data.text=[]"], "reads one column of text; set data.text"),
    (ALL, ['data.text=["note","other"]'], "reads one column of text"),
    (ALL, ['data.columns=["note","age"]'], "and 'age' is another input; remove it"),
    (ALL, ['data.hashed=["ward"]'], "and 'ward' is another input"),
    (
        ALL,
        ["silo.a.model.name=hf-folder:x", "method.name=local"],
        "silo.a.model.name: a model of hf-folder reads inputs of its own",
    ),
    (
        ALL,
        ["model.name=mlp", "model.weights=", "data.tokenizer=t.json"],
        "would take these numbers for quantities",
    ),
    (
        ALL,
        ["model.name=gru", "model.weights=", "data.tokenizer=t.json", "data.text=[]"],
        "data.text is empty",
    ),
]


@pytest.mark.parametrize(("files", "sets", "says"), REFUSED)
def test_a_folder_without_a_file_and_settings_that_contradict_it_are_refused(files, sets, says, tmp_path):
    folder = model_folder(tmp_path, *files)
    base = {"data.source": "table", "data.path": tmp_path, "data.silos": "[]", "data.text": '["note"]'}
    base |= {"model.name": f"hf-folder:{folder}", "model.weights": "pretrained"}
    base |= dict(one.split("=", 1) for one in sets)
    with pytest.raises(ConfigError) as error:
        load_experiment("digits", [f"{key}={value}" for key, value in base.items()])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_folder_gives_tokenizer_and_weights_and_the_experiment_names_them(tmp_path):
    folder = model_folder(tmp_path, *ALL)
    (tmp_path / "notes.toml").write_text(
        '[data]\nsource = "table"\npath = "."\ntext = ["note"]\n[model]\nname = "hf-folder:model"\nweights = "pretrained"\n'
    )
    experiment = load_experiment(str(tmp_path / "notes.toml"))
    assert experiment.model.name == f"hf-folder:{folder}"
    assert experiment.model.weights == str(folder / "model.safetensors")
    assert (experiment.data.tokenizer, experiment.data.columns) == (str(folder / "tokenizer.json"), ["note"])


def test_a_folder_that_is_not_there_says_what_to_put_there(tmp_path):
    sets = ["data.source=table", f"data.path={tmp_path}", "data.silos=[]", 'data.text=["note"]']
    with pytest.raises(ConfigError, match="no such folder"):
        load_experiment("digits", [*sets, f"model.name=hf-folder:{tmp_path}/nowhere"])
