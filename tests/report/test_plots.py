"""What a plot names, and how it is drawn."""

from xml.etree import ElementTree

import pytest

from fedtl.report.figures import Curve
from fedtl.report.plots import convergence, label_axes, label_rows, new_figure, to_svg
from tests.report.samples import (
    CURVES,
    HOSTILE,
    MANY,
    METHODS,
    SILOS,
    a_comparison,
    a_history,
    a_result,
    benefit_forest,
    learning_curves,
    mean_gains,
    method_dots,
    silo_bars,
)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: learning_curves(a_history()),
        lambda: learning_curves(a_history("regression", MANY)),
        lambda: learning_curves([]),
        lambda: silo_bars(a_result()),
        lambda: silo_bars(a_result("regression", MANY)),
        lambda: benefit_forest(a_comparison()),
        lambda: benefit_forest(a_comparison("regression", MANY + [f"more-{at}" for at in range(20)])),
        lambda: mean_gains(a_comparison()),
        lambda: method_dots(a_comparison()),
        lambda: method_dots(a_comparison("regression", MANY)),
        lambda: convergence(CURVES, 6),
        lambda: convergence({}, 6),
    ],
)
def test_a_plot_is_one_svg_that_repeats_and_leaves_matplotlib_as_it_was(draw):
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg = draw()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg == draw()
    assert dict(matplotlib.rcParams) == before


def test_a_plot_names_every_silo_and_every_method():
    comparison = a_comparison()
    del comparison["methods"]["fedtl, from scratch"][sorted(SILOS)[0]]
    words = set(ElementTree.fromstring(method_dots(comparison)).itertext())
    assert {*SILOS, *METHODS} <= words
    words = set(ElementTree.fromstring(learning_curves(a_history(silos=HOSTILE))).itertext())
    assert {*HOSTILE, "mean (4 to 5 of 6)"} <= words


def test_curves_say_what_they_show_and_over_how_many_silos():
    words = set(ElementTree.fromstring(convergence(CURVES, 6)).itertext())
    assert any("finished models" in word for word in words)
    assert METHODS[0] in words
    some = {"fedavg": Curve([0.1, 0.2, 0.3], [2, 4, 6])}
    assert "fedavg (2 to 6 of 6)" in set(ElementTree.fromstring(convergence(some, 6)).itertext())
    released = " ".join(ElementTree.fromstring(convergence(CURVES, 6, private=True)).itertext())
    assert "released accuracy" in released
    assert "finished models" not in released


def test_constant_answers_do_not_press_the_methods_of_a_plot_together():
    comparison = a_comparison(methods=["local", "fedavg"])
    plain = method_dots(comparison)
    comparison["methods"]["constant"] = comparison["methods"]["local"]
    assert method_dots(comparison) == plain


def test_a_title_that_is_longer_than_its_axes_begins_further_left():
    """Long names of rows leave little room for the axes, at which a title begins."""
    figure, axes = new_figure(2.0)
    label_rows(axes, ["a long name of a row " * 2])
    label_axes(axes, "w" * 45, "", "")
    to_svg(figure, "long")
    end = next(one for one in axes.get_children() if getattr(one, "get_text", str)() == "w" * 45)
    assert end.get_window_extent().x0 >= 0
    assert end.get_window_extent().x1 <= figure.bbox.x1
