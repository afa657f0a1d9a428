"""A run says which files it began from, and does not go on with others."""

import json
from hashlib import sha256

import pytest
from safetensors.torch import save_file

from fedtl.errors import ConfigError
from fedtl.experiment.more_rounds import add_rounds
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.run_trainer import run_trainer
from fedtl.experiment.side_results import changed_files, files
from fedtl.experiment.used_files import check_unchanged, used_files
from fedtl.report.page_tables import file_grid
from fedtl.results.run import UsedFile
from tests.experiment.runs import small


def first_weights(path, seed):
    trainer = run_trainer(small(f"seed={seed}"), (1, 12, 12))
    save_file(trainer.spec.net(10).state_dict(), path)
    return path.read_bytes()


def test_a_run_says_its_files_and_goes_on_with_no_others(tmp_path):
    path = tmp_path / "start.safetensors"
    old = first_weights(path, 0)
    folder = RunFolder.create(
        tmp_path / "run",
        small(f"model.weights={path}", "rounds=1", 'data.silos=["plain","faint"]', "method.name=fedavg"),
    )
    result = run(folder.experiment(), folder)
    used = UsedFile("model.weights", "start.safetensors", sha256(old).hexdigest())
    assert result.files == (used,)
    assert RunFolder.open(folder.path).result().files == (used,)
    assert [[cell.text for cell in line] for line in file_grid(result.files).rows] == [
        list(vars(used).values())
    ]

    first_weights(path, 1)
    message = f"{folder.path} began .SHA-256 {used.sha256[:12]} then"
    with pytest.raises(ConfigError, match=message) as refused:
        add_rounds(folder, 1)
    assert "\n" not in str(refused.value)
    assert folder.has("result.json")  # nothing was removed
    path.write_bytes(old)
    assert add_rounds(folder, 1) == 2
    first_weights(path, 1)
    with pytest.raises(ConfigError, match=message):
        run(folder.experiment(), folder)

    other = UsedFile("model.weights", "start.safetensors", "0" * 64)
    runs = {"fedavg": [result], "local": [type(result)(**{**vars(result), "files": (other,)})]}
    assert files(runs) == (used,)
    assert "model.weights changed between runs" in changed_files(runs)[0]
    assert changed_files({"fedavg": [result]}) == []


def test_constants_and_a_text_model_are_files_too(tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "constants.toml"):
        (folder / name).write_text(name)
    experiment = small()
    experiment = experiment.model_copy(
        update={
            "model": experiment.model.model_copy(
                update={"name": f"hf-folder:{folder}", "weights": str(folder / "model.safetensors")}
            ),
            "data": experiment.data.model_copy(
                update={"tokenizer": str(folder / "tokenizer.json"), "scale": str(folder / "constants.toml")}
            ),
        }
    )
    used = used_files(experiment)
    assert [(file.setting, file.name) for file in used] == [
        ("model.name (config.json)", "config.json"),
        ("data.tokenizer", "tokenizer.json"),
        ("model.weights", "model.safetensors"),
        ("data.scale", "constants.toml"),
    ]
    assert all(file.sha256 == sha256(file.name.encode()).hexdigest() for file in used)
    assert str(tmp_path) not in json.dumps([vars(file) for file in used])
    check_unchanged((), used, tmp_path)  # of a run that an earlier fedtl began
    (folder / "tokenizer.json").write_text("another")
    with pytest.raises(ConfigError, match=r"data\.tokenizer: tokenizer\.json has changed"):
        check_unchanged(used, used_files(experiment), tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"data\.tokenizer: .* cannot be read"):
        used_files(experiment)
