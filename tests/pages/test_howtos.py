"""The Python of the how-tos runs, and each question that users ask has a page."""

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from tests.pages.tutorial import ROOT, run_page

HOWTOS = ROOT / "docs" / "howto"


def test_there_are_at_least_twenty_and_each_is_short():
    pages = {path.stem: path.read_text() for path in HOWTOS.glob("*.md") if path.stem != "index"}
    assert len(pages) >= 20
    prose = {name: "".join(text.split("```")[::2]) for name, text in pages.items()}  # without examples
    assert [name for name, text in prose.items() if len(text.splitlines()) > 60] == []
    assert all(f"\n{name}\n" in (HOWTOS / "index.md").read_text() for name in pages)


@pytest.mark.slow
def test_rows_of_a_notebook_are_run_and_their_metrics_are_logged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    list(run_page((HOWTOS / "notebook.md").read_text(), tmp_path))
    assert "north" in capsys.readouterr().out
    logged = []
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(
        start_run=nullcontext, log_metric=lambda name, value, step: logged.append((name, value, step))
    ))  # fmt: skip
    page = (HOWTOS / "logging.md").read_text().replace("runs/my-run", "in-memory")
    list(run_page(page, tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["run"], line["round"], line["silo"]) for line in lines] == [
        ("in-memory", number, silo) for number in (1, 2) for silo in ("north", "south")
    ]
    wanted = [
        (f"{name}/{line['silo']}", value, line["round"])
        for line in lines
        for name, value in line.items()
        if name not in ("run", "round", "silo")
    ]
    assert sorted(logged) == sorted(wanted)
    assert {name.partition("/")[0] for name, *_ in logged} >= {
        "accuracy",
        "loss",
        "norm",
        "weight",
        "seconds",
    }
