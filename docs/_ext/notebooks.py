"""
The notebooks of docs/notebooks as pages, with the outputs that are stored in them: ``python -m tests.pages.notebook`` makes these anew, and a
test compares them with a fresh run. Nothing is executed here.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser

FENCE = "`" * 6  # longer than any in a cell


class NotebookParser(MystParser):
    """Reads a notebook as the Markdown page that it would be."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse the JSON of a notebook."""
        super().parse(as_markdown(json.loads(inputstring)), document)


def as_markdown(notebook: Mapping[str, Any]) -> str:
    """Return the cells of a notebook as Markdown, each output below its cell."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _parts(cell))


def _parts(cell: Mapping[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
    else:
        yield f"{FENCE}python\n{source}\n{FENCE}"
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "text/html" in data:
            html = "".join(data["text/html"])
            yield f'{FENCE}{{raw}} html\n<div class="notebook-output">{html}</div>\n{FENCE}'
        elif text := "".join(output.get("text", ())) or "".join(data.get("text/plain", ())):
            yield f"{FENCE}text\n{text}\n{FENCE}"


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
