"""
The commands of the how-tos that need a small folder of tables, a finished run or a finished comparison are executed, in this process, and
some of other pages.
Every other command of a how-to is listed here, with the reason why it is only parsed (``tests/test_docs.py``).
"""

import json
import re
import shlex
import shutil
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedtl.cli.main import app
from fedtl.experiment import compare as comparing
from fedtl.experiment.transfer import transferability
from tests.experiment.test_tuning import Here
from tests.pages.tutorial import ROOT, command_lines

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)  # also within a list
HOWTOS = ROOT / "docs" / "howto"
TOML = """
rounds = 1
[data]
source = "table"
path = "hospitals"
[model]
name = "mlp"
settings = { width = 8 }
[method]
name = "fedbn"
tune = { epochs = 1 }
[engine]
name = "serial"
[compare]
methods = ["local", "fedbn"]
seeds = [0]
"""
EXECUTED = {  # by the line that a page shows: what it writes
    "fedtl transferability hospitals.toml --out transfer": "transfer/report.html",
    "fedtl schema > experiment.schema.json": "",
    "fedtl export RUN --silo clinic --out clinic-model": "clinic-model/model.json",
    "fedtl watch runs/my-run --metrics metrics.jsonl": "metrics.jsonl",
    "fedtl watch runs/my-run --tensorboard runs/tensorboard": "runs/tensorboard",
    "fedtl new study --data hospitals": "study/experiment.toml",
    "fedtl report compared/first compared/second --out both.html": "both.html",
    "fedtl report runs/one --features": "runs/one/report.html",
    "fedtl run --resume DIR": "",
    "fedtl compare --resume DIR": "",
    "fedtl compare --resume islands --leave-one-out": "islands/report.html",
    "fedtl show digits --set privacy.epsilon=1": "",
    "fedtl show digits --set privacy.epsilon=3": "",
}
OTHERS = {  # commands of other pages: what each writes
    "fedtl show hospitals.toml": "",
    "fedtl run hospitals.toml": "",
    "fedtl predict RUN --silo NAME --input new.csv": "",
    "fedtl export RUN --silo NAME --out DIR": "exported/predict.py",
    "fedtl report RUN": "runs/one/report.html",
    "fedtl lint hospitals.toml": "",
    "fedtl data hospitals.toml": "",
    "fedtl data hospitals.toml --out hospitals-data": "hospitals-data/data.json",
    "fedtl embed RUN --silo clinic --input new.csv --out features.npz": "features.npz",
    "fedtl embed MODEL --input new.csv --out features.npz": "features.npz",
    "fedtl embed RUN --silo clinic --input new.csv --out features.parquet": "features.parquet",
}
STANDS_FOR = {"RUN": "runs/one", "NAME": "clinic", "MODEL": "model", "new.csv": "hospitals/west.csv"}
DIRS = {"fedtl run": "runs/one", "fedtl compare": "compared/first", "fedtl export": "exported"}
SITE = "needs a site that trained with a coordinator, over TLS"
SERVER = "needs a running coordinator"
PARSED = {  # by the beginning of the line
    "fedtl server": SERVER,
    "fedtl silo": SITE,
    "fedtl run exp.toml --set engine.name=ray": "test_other_programs.py executes it on two nodes, nightly",
    "fedtl predict runs/first --silo north --input new/ --masks masks/": "needs a trained segmentation; tests/tasks has one",
    "fedtl compare digits --leave-one-out": "takes minutes; the smaller comparison of the next line has the same option",
}


def shown(pages):
    """Return each command line of a code block of the pages."""
    return {
        line
        for page in pages
        for language, text in FENCE.findall(page.read_text())
        if language in ("", "sh")
        for line in command_lines(text)
        if line.startswith("fedtl ")
    }


def test_every_command_of_a_howto_is_executed_or_has_a_reason():
    listed = shown(sorted(HOWTOS.glob("*.md")))
    unknown = [line for line in listed - EXECUTED.keys() if not line.startswith(tuple(PARSED))]
    assert unknown == []
    assert EXECUTED.keys() <= listed
    assert OTHERS.keys() <= shown(ROOT / "docs" / f"{name}.md" for name in ("experiments", "transfer"))
    assert [reason for reason in PARSED if not any(line.startswith(reason) for line in listed)] == []


@pytest.fixture(scope="module")
def here():
    """Do the jobs of a comparison in this process, where fedtl would start others."""

    @contextmanager
    def pool(*_):
        yield Here()

    with pytest.MonkeyPatch.context() as patch:
        for module in (comparing, transferability):
            patch.setattr(module, "worker_pool", pool)
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory, here):
    """A folder with the tables of three hospitals, a finished run and three finished comparisons of one kind."""
    folder, rng = tmp_path_factory.mktemp("work"), np.random.default_rng(0)
    (folder / "hospitals").mkdir()
    for name in ("clinic", "north", "west"):
        y = np.arange(60) % 2
        table = pd.DataFrame(rng.normal(size=(60, 3)) + 3 * y[:, None], columns=["a", "b", "c"])
        table.assign(label=np.where(y, "ill", "well")).to_csv(
            folder / "hospitals" / f"{name}.csv", index=False
        )
    (folder / "hospitals.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        execute("fedtl run hospitals.toml --out runs/one")
        execute("fedtl compare hospitals.toml --out compared/first")
        execute("fedtl export runs/one --silo clinic --out model")
    for copy, of in {
        "runs/my-run": "runs/one",
        "compared/second": "compared/first",
        "islands": "compared/first",
    }.items():
        shutil.copytree(folder / of, folder / copy)
    return folder


def execute(line):
    """Run one command line in this process; return what it printed to stdout."""
    line, _, file = line.partition(" > ")
    result = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
    assert result.exit_code == 0, f"{line}: {result.output}"
    if file:
        json.loads(result.stdout)
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("line", [*EXECUTED, *OTHERS])
def test_a_command_of_a_page_does_what_it_says(line, work, monkeypatch):
    if "--tensorboard" in line and find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    monkeypatch.chdir(work)
    (work / "features.npz").unlink(missing_ok=True)
    folder = DIRS.get(" ".join(line.split()[:2]), "")
    words = (folder if word == "DIR" else STANDS_FOR.get(word, word) for word in line.split(" "))
    execute(" ".join(words))
    written = (EXECUTED | OTHERS)[line]
    assert not written or (work / written).exists()


@pytest.mark.slow
def test_an_export_has_the_files_of_weights_that_its_page_names(work, monkeypatch, tmp_path):
    """A mix has a file for each model that its model.json lists; --distil gives one, under the common name."""
    monkeypatch.chdir(work)
    page = (HOWTOS / "export.md").read_text()
    for options, names in (
        ("", {"own.safetensors", "tuned.safetensors"}),
        ("--distil mlp", {"model.safetensors"}),
    ):
        out = tmp_path / f"model{len(options)}"
        execute(f"fedtl export runs/one --silo clinic --out {out} {options}")
        files = {path.name for path in out.glob("*.safetensors")}
        assert files == names
        assert files == set(json.loads((out / "model.json").read_text()).get("mix", {"model.safetensors": 1}))
        assert all(f"`{name}`" in page for name in names)
