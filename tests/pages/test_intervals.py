"""Tables of the documentation break no interval over two lines."""

from docutils import nodes

from docs._ext.intervals import keep_whole


def test_an_interval_of_a_cell_is_kept_whole_and_nothing_is_lost():
    cell, text = nodes.entry(), "worst silo plain -1.1 [-6.9, +4.7], 90…96 and [a, b]"
    cell += nodes.paragraph("", "", nodes.Text(text), nodes.literal("", "[1, 2]"))
    document = nodes.section("", cell, nodes.paragraph("", "not a cell: [1, 2]"))
    keep_whole(None, document, "page")
    whole = [one.astext() for one in document.findall(nodes.inline) if "whole" in one["classes"]]
    assert whole == ["[-6.9, +4.7]", "90…96"]
    assert cell.astext().startswith(text)
