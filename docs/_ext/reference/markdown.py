"""Markdown from docstrings and values."""

import inspect
import re
from collections.abc import Iterable, Sequence

CODE = re.compile(r"``(.+?)``", re.S)
SPECIAL = re.compile(r"([\\*_<>\[\]#$|~`{}])")


def escaped(text: str) -> str:
    """Return plain text as Markdown, in which no character has a meaning."""
    return SPECIAL.sub(r"\\\1", text)


def code(text: object) -> str:
    """Return text as inline code, also inside a table."""
    fence = "``" if "`" in str(text) else "`"
    return f"{fence}{text}{fence}".replace("|", r"\|")


def prose(text: str) -> str:
    """Return a paragraph of a docstring as one line: ``code`` stays code, and all else is plain text."""
    parts = CODE.split(" ".join(text.split()))
    return "".join(code(part) if at % 2 else escaped(part) for at, part in enumerate(parts))


def blocks(text: str) -> str:
    """Return text with paragraphs, indented formulas and lists of "- " as Markdown."""
    made = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            made.append("```text\n" + inspect.cleandoc(block) + "\n```")
        elif lines and lines[0].startswith("- "):
            made.append(
                "\n".join("- " + prose(item) for item in re.split(r"\n?^- ", block, flags=re.M) if item)
            )
        else:
            made.append(prose(block))
    return "\n\n".join(made)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def anchor(name: str) -> str:
    """Return a place in the page to which ``#name`` leads."""
    return f'<a id="{name}"></a>'
