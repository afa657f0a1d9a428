"""Every kind of page in a browser, as its readers open it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedtl._util.records import from_plain
from fedtl.audit.statement import statement
from fedtl.report import bounds
from fedtl.report.audit_attacks import Pictures
from fedtl.report.audit_page import audit_page
from fedtl.report.compare_page import compare_page
from fedtl.report.data_page import data_page
from fedtl.report.onboard_figures import HEAD_NAMES
from fedtl.report.onboard_page import onboard_page
from fedtl.report.pair_page import pair_page
from fedtl.report.run_page import run_page
from fedtl.report.transfer_page import transfer_page
from fedtl.results.audit import AttackFigures, AttackResult
from fedtl.results.comparison import Comparison, Gain, Verdict, WhoHelps
from fedtl.results.onboard import Difference, HeadScore, OnboardResult, ShotsResult
from fedtl.results.page_facts import FeatureMap, FeaturePoint, Features
from fedtl.results.run import RunResult
from fedtl.results.transferability import Begin, Cut, Point, Spread, StageSpread, Transferability
from tests.audit.test_statement import audit_of
from tests.browser import BROWSER, browser
from tests.report.samples import CURVES, SILOS, TOML, a_comparison, a_history, a_result, lines_of
from tests.report.test_data_page import report_of
from tests.report.test_page_facts import a_comparison_page, a_rehearsal_page, a_run_page, facts_of_run

RNG = np.random.default_rng(0)
STAGES = ("stem", "stage one", "stage two", "stage three")
METHODS_A, METHODS_B = ["local", "fedavg", "fedbn"], ["local", "fedavg", "fedtl, from scratch"]
SPREAD = Spread(0.123, (-0.012, 0.345), 6)


def an_audit_page():
    """A page of many silos whose claims hold, with a membership attack."""
    one = audit_of()
    figures = {"members": 400, "others": 400, "notes": (), "auc": 0.51, "ci95": (0.47, 0.55)}
    figures |= {"tpr_at_fpr_1_percent": 0.02, "tpr_at_fpr_01_percent": None}
    guesses = AttackResult(
        **figures,
        roc=((0.0, 0.0), (0.3, 0.4), (1.0, 1.0)),
        silos=dict.fromkeys(SILOS, AttackFigures(**figures)),
    )
    silos = dict.fromkeys(SILOS, one.silos["a"])
    checks = [replace(one.checks[0], silo=name) for name in SILOS]
    audit = replace(one, silos=silos, checks=tuple(checks), membership={"rmia": guesses})
    return audit_page(replace(audit, statement=statement(audit)), Pictures(), TOML)


def a_pair_page():
    pair = [from_plain(Comparison, a_comparison(methods=methods)) for methods in (METHODS_A, METHODS_B)]
    settings = [{"rounds": 3, "data": {"path": "/a/long/path/" * 8}}, {"rounds": 5}]
    return pair_page(["first-comparison", "second-comparison"], pair, settings, "0.1.0")


def a_data_page():
    return data_page(report_of(7), "0.1.0", TOML, "settings", ["Nothing leaves."])


def an_onboard_page():
    gain = Difference(0.1, (-0.1, 0.3), 20)
    score = HeadScore(0.54, (0.49, 0.6), (0.5,) * 20, 1.234, 0.5, gain, gain)
    shots = tuple(
        ShotsResult(count, 10 * count, 20, dict.fromkeys(HEAD_NAMES, score), {"nine": 1}, {"ridge": 12})
        for count in (1, 2, 10)
    )
    result = OnboardResult(
        fedtl="0.1.0", backbone="runs/fedtl-seed0", method="fedtl", model="convnet", silo="textured", train=60,
        test=60, seed=0, classes=("a", "b"), shots=shots, resembles=dict.fromkeys(SILOS, 1.5),
    )  # fmt: skip
    return onboard_page(result, TOML)


def a_transfer_page():
    points = tuple(
        Point(begin, count, SPREAD, SPREAD, SPREAD)
        for count in range(1, len(STAGES) + 1)
        for begin in (Begin.A, Begin.A_TUNED, Begin.B, Begin.B_TUNED)
    )
    points = (Point(Begin.NEW, 0, SPREAD, SPREAD, SPREAD), *points)
    result = Transferability(
        fedtl="0.1.0", task="classification", metric="accuracy", method="fedtl", model="convnet", pretrained=False,
        rounds=20, seeds=(0, 1, 2), silos=tuple(SILOS), stages=STAGES, points=points,
        measures=(StageSpread(SPREAD, SPREAD, SPREAD, SPREAD),) * len(STAGES),
        by_silo=dict.fromkeys(SILOS, points), cut=Cut(2, 3, "[method]\ncut = 2\n"),
    )  # fmt: skip
    return transfer_page(result, TOML)


def a_page_with_features():
    points = tuple(
        FeaturePoint(silo, label, *RNG.normal(size=2).tolist())
        for silo in SILOS
        for label in ("ill", "well") * 5
    )
    known = Features(
        FeatureMap(points, (0.5, 0.2)), FeatureMap(points, (0.6, 0.3)), dict.fromkeys(SILOS, 0.7)
    )
    result = from_plain(RunResult, a_result())
    return run_page(result, lines_of(a_history()), TOML, facts_of_run(), known)


def a_page_of_who_helps():
    gains = {
        one: {other: Gain(0.02, (-0.01, 0.05), Verdict.GAINS) for other in SILOS if other != one}
        for one in SILOS
    }
    helps = WhoHelps("fedavg", gains, {one: Gain(0.02, (-0.01, 0.05)) for one in SILOS})
    return compare_page(replace(from_plain(Comparison, a_comparison()), who_helps=helps), CURVES, TOML)


FAULTY = """<!doctype html><html lang="en"><style>:root { color-scheme: light dark }</style><body>
<div style="width: 1200px">too wide</div><div class="scroll" style="overflow: auto; width: 50px"><table><td>unbreakable</table></div>
<img src="nowhere.png"><p style="color: #999; background: #fff">pale</p>
<svg width="90" height="40"><text y="20">a title that is cut off</text><text y="22">over it</text></svg>
<script>console.error("a mistake"); missing()</script></body></html>"""
FAULTS = (
    *(
        "1100 px, light: overflows by",
        "a table overflows: unbreakable",
        "a picture without a text",
        "a picture that is not there",
    ),
    *(
        'contrast 2.8: "pale"',
        'a plot cuts off "a title',
        'a plot writes "a title that is cut off" over "over it"',
    ),
    *("a mistake", "missing is not defined"),
)

PAGES = {
    "run": a_run_page,
    "run with features": a_page_with_features,
    "comparison": a_comparison_page,
    "who helps": a_page_of_who_helps,
    "pair": a_pair_page,
    "rehearsal": a_rehearsal_page,
    "audit": an_audit_page,
    "data": a_data_page,
    "onboard": an_onboard_page,
    "transferability": a_transfer_page,
}


def test_every_kind_of_page_is_opened():
    """Each template but those of other templates is that of one kind of page."""
    kinds = {path.name.removesuffix(".html.j2") for path in Path(bounds.__file__).parent.glob("*.html.j2")}
    assert kinds - {"page", "table"} <= PAGES.keys()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium or chromium-headless-shell is installed")
def test_in_a_browser_no_page_overflows_cuts_words_off_or_is_hard_to_read(tmp_path):
    """At three widths, in light and dark; the console is silent."""
    found = []
    with browser() as one:
        for name, make in {**PAGES, "faulty": lambda: FAULTY}.items():
            path = tmp_path / f"{name}.html"
            path.write_text(make())
            found += one.findings(name, path.as_uri())
        with pytest.raises(FileNotFoundError, match=r"missing\.html"):
            one.open((tmp_path / "missing.html").as_uri())
    assert [line for line in found if not line.startswith("faulty")] == []
    said = "\n".join(found)
    assert [words for words in FAULTS if words not in said] == []
