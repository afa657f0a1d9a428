"""
The words of pages, messages, docstrings and comments are in a dictionary of English or in ``tests/known_words.txt``: the field's
terms, British spellings, and names of authors and libraries.

To add a word of the field, write it into the file. Run: python -m tests.test_spelling to list what is not known.
"""

import gzip
import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN = ROOT / "tests" / "known_words.txt"
PAGES = ("*.md", "docs/**/*.md", "clients/*.md", "server/*.md", "deploy/*.md", "simulations/*.md")
# A word that is no part of a name, a path or an expression; of two letters or more, and with small letters after the first.
WORD = re.compile(r"(?<![\w./\\@=:`*'~-])[A-Za-z][a-z]+(?:'[a-z]+)?(?![\w/(=\[@*`]|[-.:][A-Za-z])")
CODE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
MARKUP = re.compile(r"``?[^`\n]*`?`|\]\([^)]*\)|<[^>\n]+>|https?://\S+")
TEXT = re.compile(r'"""(?s:(.*?))"""|"([^"\n]* [^"\n]*)"|#( .*)')  # docstrings, texts with a space, comments
VALUE = re.compile(r"\{[^{}]*\}|``[^`]*``")
TEMPLATE = re.compile(r"<style>.*?</style>|\{[{%#].*?[}%#]\}|<[^>]*>", re.S)


@cache
def known() -> frozenset[str]:
    """English of pyspellchecker, and the project's own words."""
    packed = (files("spellchecker") / "resources" / "en.json.gz").read_bytes()
    return frozenset(json.loads(gzip.decompress(packed))) | frozenset(OWN.read_text().split())


def unknown(text: str) -> set[str]:
    words = {word.lower() for word in WORD.findall(text)}
    return {word for word in words if word not in known() and word.removesuffix("'s") not in known()}


def prose() -> dict[str, str]:
    """What a person reads, by file."""
    texts = {}
    for path in sorted({path for kind in PAGES for path in ROOT.glob(kind)}):
        texts[str(path.relative_to(ROOT))] = MARKUP.sub("", CODE.sub("", path.read_text()))
    for path in sorted((ROOT / "fedtl").rglob("*.py")):
        said = "\n".join("".join(parts) for parts in TEXT.findall(path.read_text()))
        texts[str(path.relative_to(ROOT))] = VALUE.sub("", said)
    for path in sorted((ROOT / "fedtl").rglob("*.j2")):
        texts[str(path.relative_to(ROOT))] = TEMPLATE.sub(" ", path.read_text())
    return texts


def misspelt() -> dict[str, list[str]]:
    return {path: sorted(words) for path, text in prose().items() if (words := unknown(text))}


def test_every_word_is_known():
    found = misspelt()
    assert not found, found


def test_a_misspelt_word_is_found_in_a_page_a_message_and_a_comment():
    assert unknown("Silos recieve the model") == {"recieve"}
    ((_, message, _), (_, _, comment)) = TEXT.findall('raise X(f"no {name} recieved")  # seperate\n')
    assert unknown(VALUE.sub("", message)) | unknown(comment) == {"recieved", "seperate"}
    assert not unknown("fedtl's BatchNorm, `recieve` and data.recieve")


def test_each_own_word_is_needed_once():
    words = OWN.read_text().split()
    assert words == sorted(set(words))
    used = {word.lower() for text in prose().values() for word in WORD.findall(text)}
    assert [word for word in words if not {word, f"{word}'s"} & used] == []


if __name__ == "__main__":
    for where, words in misspelt().items():
        print(f"{where}: {', '.join(words)}")
