"""What a printed table and a page say, for tests."""

import re
from html.parser import HTMLParser

from rich.console import Console


def printed(table, width=100):
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as captured:
        console.print(table)
    text = captured.get()
    assert all(len(line) <= width for line in text.splitlines())
    return text


class Reader(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def assert_self_contained(page):
    bare = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "http://" not in bare
    assert "https://" not in bare
    read = Reader(page)
    assert not {"script", "link", "iframe", "img", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    for name, value in read.attributes:
        if name in ("href", "xlink:href", "src"):
            assert value.startswith("#")
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert read.tags.count("table") == read.tags.count("caption")
    assert read.tags.count("svg") == sum(
        1 for name, value in read.attributes if name == "aria-label" and value
    )
    return read.text


def text_of(page):
    return " ".join(Reader(page).text.split())


def cells_of(page):
    """The text of a page, with a space between two cells of a table."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())
