"""What a steward sees of the institution's own rows, and what the page says of what may leave."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fedtl.cli import main
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.own_rows import own_report, sharing
from tests.real_processes import Federation


def home_with(tmp_path, labels, **settings):
    """A site whose table has the columns v (a value is missing in row 3) and w, and these labels; rows 0 and 1 are equal."""
    home = Home.create(tmp_path / "home", "clinic", "localhost:1")
    rng = np.random.default_rng(0)
    rows = [f"{v},{w}" for v, w in rng.normal(size=(len(labels), 2)).tolist()]
    rows[1], rows[3] = rows[0], "," + rows[3].split(",")[1]
    lines = ["v,w,label", *(f"{row},{label}" for row, label in zip(rows, labels, strict=True))]
    (home.path / "rows.csv").write_text("\n".join(lines) + "\n")
    given = {"data__source": "table", "data__path": "rows.csv", "policy__privacy": None, **settings}
    Federation.change(home.path / "silo.toml", **given)
    return Home.open(home.path)


def test_a_site_of_one_class_is_recommended_to_receive(tmp_path):
    report = own_report(home_with(tmp_path, ["sick"] * 40))
    rows = report.silos["clinic"]
    assert (rows.stored, rows.labels, rows.missing) == (40, {"sick": 40}, {"v": 1})
    assert rows.repeated == 1
    assert rows.train + rows.val + rows.test == 40
    assert rows.trained == {"sick": rows.train}
    assert any("data.unlabelled" in one.text for one in report.recommendations)
    assert report.between.inputs == {}


def test_many_numbers_are_values_and_hidden_labels_are_not_counted(tmp_path):
    rows = own_report(home_with(tmp_path / "values", [f"{number}.5" for number in range(40)])).silos["clinic"]
    assert (rows.labels, rows.trained) == ({}, {})
    assert rows.values == {"low": 0.5, "high": 39.5, "mean": 20.0, "std": pytest.approx(np.arange(40).std())}
    hidden = own_report(home_with(tmp_path / "hidden", ["a", "b"] * 20, data__unlabelled=True)).silos[
        "clinic"
    ]
    assert (hidden.labels, hidden.trained, hidden.values) == ({}, {}, {})
    assert hidden.without_label == hidden.train


def test_the_policy_says_what_may_leave(tmp_path):
    (nothing,) = sharing(
        home_with(tmp_path / "closed", ["a", "b"] * 20, policy__share_row_count=False, policy__metrics=[])
    )
    assert "no count and no metric" in nothing
    (open_count,) = sharing(
        home_with(
            tmp_path / "open", ["a", "b"] * 20, policy__share_row_count=True, policy__metrics=["accuracy"]
        )
    )
    assert "share_row_count" in open_count
    assert "accuracy" in open_count


def test_the_command_writes_a_page_for_the_steward_alone(tmp_path):
    home, out = home_with(tmp_path, ["a", "b"] * 20), tmp_path / "out"
    done = CliRunner().invoke(main.app, ["silo", "data", str(home.path), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "data.json").read_text())
    page = out / "report.html"
    assert page.stat().st_mode & 0o777 == 0o600
    assert "of this page leaves clinic" in page.read_text()
    again = CliRunner().invoke(main.app, ["silo", "data", str(home.path), "--out", str(out)])
    assert again.exit_code != 0
