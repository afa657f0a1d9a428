"""The language as a test: tests match on short parts of a message, and words that were retired stay away."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_MATCH = 4  # words: more is a sentence, and mending its wording would break a test

# What the field has a word of its own for, as a regular expression of whole words, and that word.
RETIRED = {
    r"rows of nobody|rows that nobody has|nobody's rows": "synthetic rows",
    r"sidecar": "canary layer",
    r"mishaps?": "unexpected failure",
    r"furnish(es|ed)?": "make a worker context",
    r"owes? (its|their) values": "was trained on private rows",
    r"its steward knows": "the reason is recorded at the site",
    r"comes? to nothing|is no agreement": "say what is wrong",
}
TEXTS = ("*.py", "*.j2", "*.md", "*.toml", "*.yml", "*.yaml", "*.service")
FOLDERS = ("fedtl", "docs", "deploy", "server", "clients", "simulations")


def matches(path: Path) -> list[tuple[int, str]]:
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
def test_tests_match_on_short_parts_of_a_message():
    long = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, text in matches(path)
        if len(re.findall(r"[A-Za-z][\w.\\-]+", text)) > LONGEST_MATCH
    ]
    assert not long, "\n".join(long)


@pytest.mark.slow
def test_retired_words_stay_away():
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    files += [path for folder in FOLDERS for kind in TEXTS for path in sorted((ROOT / folder).rglob(kind))]
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {found[0]!r}: write {better!r}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for pattern, better in RETIRED.items()
        if (found := re.search(rf"\b({pattern})\b", line, re.IGNORECASE))
    ]
    assert not lines, "\n".join(lines)
