"""No line of a table's cell ends within an interval such as "90…96" or "[-1.2, +2.3]", as on the pages of fedtl itself."""

from typing import Any

from docutils import nodes

from fedtl.report.html import INTERVAL


def keep_whole(app: Any, doctree: nodes.document, page: str) -> None:
    """Put each interval of a cell into an element of its own, which the style sheet does not break."""
    for cell in doctree.findall(nodes.entry):
        for text in [one for one in cell.findall(nodes.Text) if not isinstance(one.parent, nodes.literal)]:
            text.parent.replace(text, parts(str(text)))


def parts(text: str) -> list[nodes.Node]:
    """Return the text, cut at its intervals."""
    found: list[nodes.Node] = []
    at = 0
    for interval in INTERVAL.finditer(text):
        found += [nodes.Text(text[at : interval.start()]), nodes.inline("", interval[0], classes=["whole"])]
        at = interval.end()
    return [*found, nodes.Text(text[at:])]


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", keep_whole)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
