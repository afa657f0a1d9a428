"""The notebooks of docs/notebooks run from start to end and show what is stored in them; the documentation renders it."""

import nbformat
import pytest

from docs._ext.notebooks import as_markdown
from tests.pages.notebook import NOTEBOOKS, executed, outputs_of, words_shown
from tests.pages.tutorial import ROOT

NAMES = {"compare", "private"}


def test_there_are_two_and_the_pages_lead_to_them():
    assert {path.stem for path in NOTEBOOKS} == NAMES
    for path in NOTEBOOKS:
        nbformat.validate(nbformat.read(path, as_version=4))
        assert f"notebooks/{path.name}" in (ROOT / "docs" / "howto" / "notebook.md").read_text()
        assert f"notebooks/{path.stem}" in (ROOT / "docs" / "tutorials" / "index.md").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_has_every_cell_and_its_tables_and_plots(path):
    """Each output follows its own cell."""
    notebook = nbformat.read(path, as_version=4)
    page, at = as_markdown(notebook), 0
    for cell in notebook.cells:
        for part in (cell.source, *(outputs_of({"cells": [cell]}) if cell.cell_type == "code" else ())):
            at = page.index(part.strip(), at) + len(part.strip())
    assert page.count("<table") >= 3
    assert page.count("<img alt") == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored_in_it(path, tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    now = executed(path, tmp_path)  # raises CellExecutionError
    assert words_shown(now) == words_shown(nbformat.read(path, as_version=4))
    assert all(cell.execution_count for cell in now.cells if cell.cell_type == "code")
