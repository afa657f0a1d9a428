"""
Render an HTML page: one file without scripts and without requests to other servers.

The pages of a run, a comparison, an audit and a rehearsal are made here from values that the other modules prepare. All
text is escaped; only plots are inserted as markup.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape


class Cell(NamedTuple):
    """The text of a table's cell, and its CSS class."""

    text: object
    css_class: str = ""


@dataclass(frozen=True)
class Grid:
    """A table. The last ``summary_rows`` rows summarise the others. ``words``: its cells are sentences, not numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    summary_rows: int = 0
    words: bool = False


@dataclass(frozen=True)
class Card:
    """What is said of one silo: its name, a word with a CSS class, and lines of a name and a value."""

    title: str
    word: str
    css_class: str
    lines: Sequence[tuple[str, str]]


class Plot(NamedTuple):
    """A plot as SVG, and its name for readers who cannot see it."""

    name: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """A section of the page: paragraphs, tables, plots and subsections, in this order."""

    title: str
    lines: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    plots: Sequence[Plot] = field(default_factory=list)
    parts: Sequence["Section"] = ()


def row(*texts: object) -> list[Cell]:
    """A table row of cells without a CSS class."""
    return [Cell(text) for text in texts]


def plot(name: str, svg: str) -> Plot:
    """A plot for a page. ``svg`` is inserted without escaping, so it must come from ``fedtl.report``."""
    return Plot(name, Markup(svg))


NUMBER = r"[-+]?[\d.,]*\d"
INTERVAL = re.compile(rf"\S+…\S+|\[{NUMBER}, {NUMBER}\]|{NUMBER} to {NUMBER}")


def whole_intervals(text: object) -> Markup:
    """The text of a cell, marked so that no line breaks inside an interval such as "57…60" or "[-1.2, +2.3]"."""
    return Markup(INTERVAL.sub(r'<span class="whole">\g<0></span>', str(escape(text))))


_ENVIRONMENT = Environment(
    loader=PackageLoader("fedtl.report", "."),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["whole_intervals"] = whole_intervals


def render(template: str, **content: Any) -> str:
    """The page that a template of this package makes of its content."""
    return _ENVIRONMENT.get_template(template).render(**content)
