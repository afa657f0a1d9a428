"""A run is not continued after a silo's rows have changed: the split would be another, and training rows would be test rows."""

import numpy as np
import pytest

from tests.commands import fedtl
from tests.experiments import ROUNDS_ONLY

RNG = np.random.default_rng(0)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "rows").mkdir()
    for silo in "ab":
        rows = [f"{x:.3f},{row % 2}" for row, x in enumerate(RNG.normal(size=40))]
        (tmp_path / "rows" / f"{silo}.csv").write_text("\n".join(["x,label", *rows]) + "\n")
    experiment = tmp_path / "exp.toml"
    text = f'rounds = 1\n[data]\nsource = "table"\npath = "{tmp_path / "rows"}"\nlabel = "label"\n[model]\nname = "linear"\n'
    experiment.write_text(text + '[engine]\nname = "serial"\n')
    sets = [word for one in ROUNDS_ONLY for word in ("--set", one)]
    assert fedtl("run", experiment, "--out", tmp_path / "run", *sets).returncode == 0
    return tmp_path


def test_more_rounds_on_the_same_rows(run):
    done = fedtl("run", "--resume", run / "run", "--more-rounds", 1)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("change", ["0.5,1\n", ""])
def test_more_rounds_on_other_rows_are_refused(run, change):
    file = run / "rows" / "a.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines) + change if change else "".join([lines[0], *lines[2:]]))
    done = fedtl("run", "--resume", run / "run", "--more-rounds", 1)
    assert done.returncode == 2
    assert "silo a: the set of its rows" in done.stderr
