"""The examples of docs/sources.md: the first one runs as it stands, and the settings of all are accepted."""

import re
from pathlib import Path

import pytest

from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.data_schema import read_data_schema
from fedtl.models.folder_files import CONFIG, TOKENIZER, WEIGHTS

PAGE = (Path(__file__).parents[2] / "docs/sources.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.S)


def test_the_set_that_the_page_writes_is_dealt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", PAGE, re.S)[1], {})
    (tmp_path / "exp.toml").write_text(EXAMPLES[0])
    schema = read_data_schema(load_experiment(str(tmp_path / "exp.toml"), []))
    assert len(schema.silos) == 10
    assert sum(silo.rows for silo in schema.silos.values()) == 1797
    assert len({silo.trained for silo in schema.silos.values()}) > 1


@pytest.mark.parametrize("number", range(1, len(EXAMPLES)))
def test_an_example_is_accepted(number, tmp_path):
    text = re.sub("/(data|models)/", f"{tmp_path}/", EXAMPLES[number])
    Path(re.search(r'path = "(.*?)"', text)[1]).mkdir()
    if model := re.search(r'name = "hf-folder:(.*?)"', text):
        Path(model[1]).mkdir()
        for file in (CONFIG, TOKENIZER, WEIGHTS):
            (Path(model[1]) / file).touch()
    (tmp_path / "exp.toml").write_text(text)
    load_experiment(str(tmp_path / "exp.toml"), [])
