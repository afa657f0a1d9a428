"""The notebooks of docs/notebooks run from start to end, and their results render as tables and plots."""

import nbformat
import pytest

from tests.pages.tutorial import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
RENDERED = {
    "compare": {"<table", "<img alt"},
    "private": {"<table", "<img alt"},
}  # what some output must hold
SECONDS = 300


def test_there_are_two_without_outputs_that_could_be_stale():
    assert {path.stem for path in NOTEBOOKS} == set(RENDERED)
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in cells)
        assert f"notebooks/{path.name}" in (ROOT / "docs" / "howto" / "notebook.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_tables_and_plots(path, tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    client.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()  # raises CellExecutionError
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert all(part in shown for part in RENDERED[path.stem])
    assert not any("Traceback" in output.get("text", "") for output in outputs)
