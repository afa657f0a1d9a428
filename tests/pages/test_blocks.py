"""The settings that pages show are known keys with values that are allowed, and their Python is Python."""

import ast
import re
import tomllib

import pytest
from jsonschema import Draft202012Validator

from fedtl.cli.schema import file_schemas
from tests.pages.tutorial import ROOT, blocks

FILES = ("experiment", "silo", "server")
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [ROOT / folder / "README.md" for folder in ("clients", "server", "deploy", "simulations")]
NEEDED = re.compile(r"is a required property")  # a page may show a part of a table


@pytest.fixture(scope="module")
def schemas():
    return [Draft202012Validator(file_schemas()[name]()) for name in FILES]


def tables(text):
    """The tables of a block; of one that shows several examples of [data], each by itself."""
    try:
        return [tomllib.loads(text)]
    except tomllib.TOMLDecodeError:
        return [tomllib.loads(part) for part in text.split("\n\n") if part.strip()]


def mistakes(table, schema):
    return [error.message for error in schema.iter_errors(table) if not NEEDED.search(error.message)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_are_known_and_python_is_python(path, schemas):
    for block in blocks(path.read_text()):
        if block.language == "python" and ">>>" not in block.text:
            ast.parse(block.text)
        for table in tables(block.text) if block.language == "toml" else []:
            meant = (table, {"data": table})  # a block may show keys of [data] alone
            found = [mistakes(one, schema) for schema in schemas for one in meant]
            assert [] in found, (block.text, min(found, key=len))
