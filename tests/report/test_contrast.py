"""Text and marks of a page can be seen: contrast by the formula of WCAG 2.2, in light, in the dark and on paper."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedtl.report import heat_colours, plots

STYLE = (Path(plots.__file__).parent / "page.html.j2").read_text()
TEXT, MARK = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
DOCS = Path(__file__).parents[2] / "docs" / "_static" / "style.css"


def channels(colour):
    digits = colour.lstrip("#")
    digits = "".join(2 * one for one in digits) if len(digits) == 3 else digits
    return np.array([int(digits[at : at + 2], 16) for at in (0, 2, 4)]) / 255


def luminance(colour):
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def in_the_dark(colour):
    """What ``invert(.9) hue-rotate(180deg)`` makes of it: the matrix of the W3C's Filter Effects, for 180 degrees."""
    inverted = colour * (1 - 2 * 0.9) + 0.9
    grey = np.array([0.213, 0.715, 0.072])
    return np.clip((2 * grey - np.eye(3)) @ inverted, 0, 1)


def schemes():
    """The variables of each scheme, by its name, as colours."""
    roots = re.findall(r":root \{([^}]*--ink[^}]*)\}", STYLE)
    assert len(roots) == 3
    found = [
        {name: channels(code) for name, code in re.findall(r"--([\w-]+): (#\w+)", root)} for root in roots
    ]
    return dict(zip(("light", "dark", "print"), found, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_text_of_a_page_has_enough_contrast(scheme):
    colours = schemes()[scheme]
    paper, ink = colours["paper"], colours["ink"]
    pairs = {name: (colours[name], paper) for name in ("ink", "gains", "loses", "unclear", "as-good")}
    opacities = {float(one) for one in re.findall(r"opacity: (\.\d+)", STYLE)}
    assert opacities
    pairs |= {f"ink of opacity {one}": (ink * one + paper * (1 - one), paper) for one in opacities}
    shades = [int(one) / 100 for one in re.findall(r"color-mix\(in srgb, var\(--as-good\) (\d+)%", STYLE)]
    assert len(shades) == 4
    pairs |= {
        f"a cell of {share:.0%}": (ink, colours["as-good"] * share + paper * (1 - share)) for share in shades
    }
    low = {name: round(contrast(*pair), 2) for name, pair in pairs.items() if contrast(*pair) < TEXT}
    assert low == {}


def test_the_marks_of_a_plot_have_enough_contrast():
    """The two lightest colours are the last, which a plot needs for its seventh and eighth method."""
    white = np.ones(3)
    shown = {name: channels(name) for name in (*plots.PALETTE, plots.GREY, plots.INK)}
    light = [name for name, one in shown.items() if contrast(one, white) < MARK]
    assert light == list(plots.PALETTE[-2:])
    assert [
        name for name, one in shown.items() if contrast(in_the_dark(one), in_the_dark(white)) < MARK
    ] == []
    assert contrast(in_the_dark(channels(plots.INK)), in_the_dark(white)) > TEXT


@pytest.mark.parametrize("colours", [heat_colours.DIVERGING, heat_colours.RISING], ids=lambda one: one.name)
def test_the_numbers_of_a_heat_map_have_enough_contrast_in_every_cell(colours):
    ink, cells = channels(heat_colours.INK_OF_NUMBERS), colours(np.linspace(0, 1, 201))[:, :3]
    low = min(contrast(cell, ink) for cell in cells)
    dark = min(contrast(in_the_dark(cell), in_the_dark(ink)) for cell in cells)
    assert (low > TEXT, dark > TEXT) == (True, True), (low, dark)


def test_plots_of_reports_and_of_the_documentation_are_dark_by_the_filter_that_is_computed_here():
    for text in (STYLE, DOCS.read_text()):
        assert re.findall(r"filter: invert\((0?\.9)\) hue-rotate\(180deg\)", text)


def test_the_formula_gives_the_known_values():
    """Black on white has 21; #767676 is the lightest grey that text on white may have; a grey keeps no hue in the dark."""
    black, white = np.zeros(3), np.ones(3)
    assert contrast(black, white) == pytest.approx(21)
    assert contrast(channels("#767676"), white) > TEXT > contrast(channels("#777"), white)
    np.testing.assert_allclose(in_the_dark(white), np.full(3, 0.1), atol=1e-9)
    np.testing.assert_allclose(in_the_dark(black), np.full(3, 0.9), atol=1e-9)
