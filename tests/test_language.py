"""The language as a test: words that were retired stay away."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

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
