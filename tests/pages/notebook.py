"""
A notebook of docs/notebooks with the outputs of this code. Run: python -m tests.pages.notebook to write them anew.
"""

import html
import os
import re
import tempfile
from pathlib import Path

import nbformat

from tests.pages.tutorial import ROOT, words_of

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SECONDS = 300  # of one cell
KEPT = ("text/html", "text/plain")


def executed(path, folder):
    """Return the notebook as a reader has it after running every cell in ``folder``; progress is left out. Raises CellExecutionError."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources=place, record_timing=False
    ).execute()
    notebook.metadata = nbformat.from_dict(metadata)  # without the version of this Python
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_cleaned(one) for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


def _cleaned(output):
    """An output in the forms that the pages show; a text stands for HTML only where there is none."""
    if data := output.get("data"):
        kept = [kind for kind in KEPT if kind in data][:1]
        output["data"] = {kind: data[kind] for kind in kept}
        output["metadata"] = {}
    return output


def outputs_of(notebook):
    """Return what each code cell shows, in order, as HTML or text."""
    return [
        "".join(output.get("text") or next(iter(output.get("data", {"": ""}).values())))
        for cell in notebook["cells"]
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


def words_shown(notebook):
    """Return what of its outputs is the same on every machine: their words, with # for each number. Plots have their alternative texts."""
    texts = []
    for shown in outputs_of(notebook):
        shown = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", shown, flags=re.S)
        shown = re.sub(r'<img[^>]* alt="([^"]*)"[^>]*>', r"\1", shown)
        texts += words_of(html.unescape(re.sub(r"<[^>]+>", "\n", shown)))
    return texts


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(ROOT)
    for notebook_path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as work:
            nbformat.write(executed(notebook_path, Path(work)), notebook_path)
