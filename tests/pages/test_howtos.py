"""The Python of the how-tos runs, and each question that users ask has a page."""

import pytest

from tests.pages.tutorial import ROOT, blocks, run_page

HOWTOS = ROOT / "docs" / "howto"


def test_there_are_at_least_twenty_and_each_is_short():
    pages = {path.stem: path.read_text() for path in HOWTOS.glob("*.md") if path.stem != "index"}
    assert len(pages) >= 20
    prose = {name: "".join(text.split("```")[::2]) for name, text in pages.items()}  # without examples
    assert [name for name, text in prose.items() if len(text.splitlines()) > 60] == []
    assert all(f"\n{name}\n" in (HOWTOS / "index.md").read_text() for name in pages)


@pytest.mark.slow
def test_rows_of_a_notebook_are_run_and_their_history_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    list(run_page((HOWTOS / "notebook.md").read_text(), tmp_path))
    assert "north" in capsys.readouterr().out
    first = next(block for block in blocks((HOWTOS / "logging.md").read_text()) if block.language == "python")
    names = {}
    exec(first.text.replace("runs/my-run", "in-memory"), names)
    history = names["history"]
    assert list(history.index.names) == ["round", "silo"]
    assert history["loss"].notna().all()
