"""The page of the data: what it says is in the report, whatever the names are, and it stays small with many silos."""

from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from fedtl.report.data_page import answer, data_page
from fedtl.results.data_report import (
    BetweenSilos,
    DataReport,
    LabelShift,
    Recommendation,
    Separation,
    SiloRows,
)

HOSTILE = "<script>alert(1)</script>"
SIZE = 1_000_000  # bytes that a page has at most


def report_of(silos, columns=28, regression=False):
    rng = np.random.default_rng(0)
    names = [f"silo-{number:03}" for number in range(silos - 1)] + [HOSTILE if silos < 9 else "last"]
    values = {"low": 0.5, "high": 9.0, "mean": 4.0, "std": 1.5}
    own = {"values": values} if regression else {"trained": {"no": 30, HOSTILE: 12}}
    rows = {name: SiloRows(60, 42, 6, 12, "28 columns", missing={"v": 7}, units=20, **own) for name in names}
    between = BetweenSilos(
        inputs={
            name: Separation(float(auc), (float(auc) - 0.1, 1.0), 84)
            for name, auc in zip(names, rng.uniform(0.5, 1, silos), strict=True)
        },
        pairs={f"{one}, {other}": Separation(0.7, (0.6, 0.8), 84) for one, other in pairwise(names)}
        if silos < 13
        else {},
        labels={name: LabelShift(0.25, 0.01) for name in names},
        differences={name: {f"column {at}": float(rng.normal()) for at in range(columns)} for name in names},
        sampled=42,
        too_few=(names[-1],),
    )
    advice = Recommendation((names[-1],), f"{names[-1]} has 30 rows of one class", 30, "one label")
    return DataReport(rows, {f"{names[0]}, {names[1]}": 3}, between, (advice,), (f"a note on {HOSTILE}",))


class Reader(HTMLParser):
    """Collects tags, text, and the names of pictures. Fails on scripts and on what would be fetched."""

    def __init__(self):
        super().__init__()
        self.text, self.figures, self.named = "", 0, 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert tag not in ("script", "link", "iframe")
        for key in ("src", "href", "xlink:href"):
            assert given.get(key, "#").startswith(("#", "data:image/png")), given[key]
        self.figures += tag == "figure"
        self.named += tag == "figure" and bool(given.get("aria-label")) and given.get("role") == "img"

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
@pytest.mark.parametrize(("silos", "regression", "figures"), [(3, False, 4), (3, True, 4), (139, True, 3)])
def test_a_page_has_its_numbers_and_named_plots_and_fetches_nothing(silos, regression, figures):
    report = report_of(silos, regression=regression)
    page = data_page(report, "0.1.0", 'name = "<b>"', "settings", ["Nothing leaves."])
    assert len(page.encode()) < SIZE
    reader = Reader()
    reader.feed(page)
    assert (reader.figures, reader.named) == (figures, figures)
    for part in (
        "rows of one class",
        "Rule: one label",
        "a note on <script>",
        "Nothing leaves.",
        'name = "<b>"',
        "at most 42 training rows",
    ):
        assert part in reader.text, part
    assert "prefers-color-scheme: dark" in page
    farthest = max(report.between.inputs.values(), key=lambda one: one.auc)
    assert f"AUC {farthest.auc:.2f}" in answer(report)
    assert f"{silos} silos with {42 * silos:,} training rows" in answer(report)


def test_a_page_of_one_silo_says_nothing_of_others():
    alone = DataReport({"a": SiloRows(10, 8, 1, 1, "2 columns", trained={"0": 4, "1": 4})})
    page = data_page(alone, "0.1.0", "", "settings")
    assert "AUC" not in page
    assert "None of the rules applies" in page
