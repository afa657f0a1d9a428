"""The program behind the table of what privacy costs: every row of it can be made, the unsound one too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "simulations" / "private"))
import table

SHORT = ["rounds=4", "model.pretrain_epochs=8", "method.tune.epochs=2"]
WHOLE = (
    "DP-AdaBN",
    "exact statistics (UNSOUND)",
)  # with norms that move, these few epochs give nothing better than chance


IN_CI = ("not private, BatchNorm", "DP-AdaBN")
ROWS = [
    row if row in IN_CI else pytest.param(row, marks=pytest.mark.nightly)
    for row in (*table.OPEN, *table.PRIVATE)
]


@pytest.mark.parametrize("row", ROWS)
def test_a_run_of_each_row(row, tmp_path_factory):
    """Better than chance on ten digits, at an epsilon that hurts little."""
    private = row in table.PRIVATE
    one = table.One("scanner", row, 0, 8.0 if private else None, 0.05 if private else None)
    found = table.accuracy(one, tmp_path_factory.getbasetemp() / "own", () if row in WHOLE else SHORT)
    assert found["silos"].keys() == {"scanner"}
    assert 0.5 < found["accuracy"] <= 1
