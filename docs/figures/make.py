"""
Write the plot that README.md shows: the first plot of a comparison's page, as the page has it.

Run: fedtl compare digits --out digits && python docs/figures/make.py digits/report.html docs/figures/digits-gains.svg
"""

import re
import sys
from pathlib import Path

SPACE = ' xmlns="http://www.w3.org/2000/svg"'


def first_plot(page: str) -> str:
    """Return the first plot of a page as the text of an SVG file, on white, so that it can be read in dark mode too."""
    svg = re.search(r"<svg.*?</svg>", page, re.S)
    assert svg is not None, "the page has no plot"
    opening, _, rest = svg[0].partition(">")
    return f"{opening if 'xmlns=' in opening else opening + SPACE}>{rest}\n"


if __name__ == "__main__":
    page, out = map(Path, sys.argv[1:])
    out.write_text(first_plot(page.read_text()))
