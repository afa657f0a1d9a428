"""Tests match on short parts of a message, such as a name, a number or a key, so that its wording can be mended in one place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LONGEST_PATTERN = 4  # words of a ``match=``: more is a sentence, and mending its wording would break a test
LONGEST_TEXT = 6  # words of a text that a message is compared or searched with
CALLS = {"startswith", "endswith", "count", "search", "match", "fullmatch", "findall", "refused", "refusal"}
# What these compare whole sentences for.
ABOUT_TEXT = {
    "cli/test_screen.py": "the lines of a terminal",
    "cli/test_watch.py": "the lines of a terminal",
    "experiment/test_data_notes.py": "lists of silos and labels",
    "experiment/test_row_notes.py": "the description of a silo's images",
    "pages/test_reference.py": "rows of tables",
    "report/test_answers.py": "the sentences that answer whether joining helped",
    "simulations/test_bench.py": "the names of what is measured",
    "simulations/test_bench_deploy.py": "the names of what is measured",
    "simulations/test_published.py": "rows of tables",
    "simulations/test_sets.py": "rows of tables",
    "simulations/test_wrong_labels.py": "rows of tables",
    "test_api.py": "a comment in a file",
}


def words(text: str) -> int:
    return sum(bool(re.fullmatch(r"\W*[A-Za-z][a-z']+\W*", word)) for word in text.split())


def text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return " 0 ".join(text_of(part) or "" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def texts(node: ast.AST) -> Iterator[str]:
    if (text := text_of(node)) is not None:
        yield text
        return
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


def matched(source: str) -> Iterator[str]:
    """Yield each text that a test compares or searches with."""
    for node in ast.walk(ast.parse(source)):
        name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Compare) or name in CALLS:
            yield from texts(node)


def test_what_counts_as_a_sentence():
    source = 'assert f"{name} has no label, and the others have {count} of them" in note\nassert "north: 3" in note'
    assert [words(text) for text in matched(source)] == [9, 1]


@pytest.mark.slow
def test_matched_texts_are_short():
    long = {
        str(path.relative_to(TESTS)): found
        for path in sorted(TESTS.rglob("*.py"))
        if (found := [text for text in matched(path.read_text()) if words(text) > LONGEST_TEXT])
    }
    assert set(long) - {"test_matched_text.py"} == set(ABOUT_TEXT), {
        name: found for name, found in long.items() if name not in ABOUT_TEXT
    }


def patterns_of(path: Path) -> list[tuple[int, str]]:
    """Return the line and the constant text of each ``match=`` pattern in a test file."""
    patterns = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "match":
            parts = node.value.values if isinstance(node.value, ast.JoinedStr) else [node.value]
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}"
                for part in parts
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )
            patterns.append((node.value.lineno, text))
    return patterns


@pytest.mark.slow
def test_patterns_are_short():
    long = [
        f"{path.relative_to(TESTS)}:{line}: {text}"
        for path in sorted(TESTS.rglob("*.py"))
        for line, text in patterns_of(path)
        if len(re.findall(r"[A-Za-z][\w.\\-]+", text)) > LONGEST_PATTERN
    ]
    assert not long, "\n".join(long)
