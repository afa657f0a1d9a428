"""A transformer on a column of text, from two silos' files to an export that transformers reads; and private training."""

import csv
import json
import random

import pytest
import torch
from safetensors.torch import load_file

from fedtl.errors import ConfigError
from fedtl.experiment.backbone import read_backbone
from fedtl.experiment.config.load import load_experiment, with_changes
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.experiment.test_export_script import check
from tests.experiments import ROUNDS_ONLY
from tests.models.text_folders import WORDS, need_transformers, write_folder

PRIVATE = ("privacy.epsilon=8", "data.scale=none", 'data.classes=["ill","well"]')


def write_notes(path, rows=40):
    """Notes of two silos, each with the words of its label among others."""
    path.mkdir()
    draw = random.Random(0)
    for silo in "ab":
        with (path / f"{silo}.csv").open("w", newline="") as file:
            write = csv.writer(file)
            write.writerow(["age", "note", "label"])
            for number in range(rows):
                said = "severe cough" if number % 2 else "no fever"
                words = [*draw.choices(WORDS[5:], k=number % 3), said]
                write.writerow(
                    [number, "" if number == 3 else " ".join(words), "ill" if number % 2 else "well"]
                )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    need_transformers()
    base = tmp_path_factory.mktemp("text")
    write_folder(base / "bert")
    write_notes(base / "notes")
    return base


def experiment(places, *sets, rounds=1):
    data = [
        "data.source=table",
        f"data.path={places / 'notes'}",
        "data.silos=[]",
        'data.text=["note"]',
        "data.text_width=12",
    ]
    model = [f"model.name=hf-folder:{places / 'bert'}", "model.weights=pretrained"]
    train = [
        f"rounds={rounds}",
        "engine.name=serial",
        "train.optimizer=adam",
        "train.lr=0.01",
        "train.batch_size=8",
        "method.name=fedavg",
    ]
    return load_experiment("digits", [*data, *model, *train, *ROUNDS_ONLY, *sets])


def run_in(folder, settings):
    done = RunFolder.create(folder / "run", settings)
    run(settings, done)
    return SiloModel(done, "a")


@pytest.mark.slow
@pytest.mark.process
def test_a_run_and_its_export(places, tmp_path, monkeypatch, capsys):
    transformers = need_transformers()
    model = run_in(tmp_path, experiment(places, rounds=8))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(silo["accuracy"] >= 0.75 for silo in result["silos"].values())
    lines = export_model(model, tmp_path / "out")
    assert any("model.onnx: input x [n, 12]" in line for line in lines), lines
    (tmp_path / "new.csv").write_text('note\nno fever today\n"severe fever no cough"\n""\n')
    monkeypatch.setattr("warnings.filters", [("ignore", None, Warning, None, 0)])
    check(model, tmp_path / "out" / "predict.py", tmp_path / "new.csv", monkeypatch, capsys)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == {0: "ill", 1: "well"}
    ids = torch.tensor([[2, 4, 5, 16, 3]])  # [CLS] no fever today [SEP]
    with torch.no_grad():
        own = model.net()(torch.nn.functional.pad(ids + 1.0, (0, 7)))
        torch.testing.assert_close(own, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    again = with_changes(
        model.experiment,
        model=model.settings.model_copy(
            update={"name": f"hf-folder:{tmp_path / 'out'}", "weights": "pretrained"}
        ),
    )
    assert again.model.weights == str(tmp_path / "out" / "model.safetensors")
    texts = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert [
        name for name, content in texts.items() if str(places).encode() in content
    ] == []  # it can be handed on
    assert json.loads(texts["model.json"])["model"] == "hf-folder:."
    for used in result["files"]:
        assert f"SHA-256 `{used['sha256']}`" in texts["README.md"].decode()
    with pytest.raises(ConfigError, match="cannot be onboarded"):
        read_backbone(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.private
def test_private_training_moves_all_of_it(places, tmp_path):
    run_in(tmp_path, experiment(places, *PRIVATE))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(0 < silo["epsilon"] <= 8 for silo in result["privacy"]["silos"].values())
    first = load_file(places / "bert" / "model.safetensors")
    after = load_file(tmp_path / "run" / "shared.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(after[f"body.transformer.{name}"], first[name])
