"""The documentation is true: the paths and links that it names exist, and the commands that it shows are accepted."""

import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

from fedtl.cli.main import app
from fedtl.data.digits import SCANNERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
OTHERS = [ROOT / f"{folder}/README.md" for folder in ("clients", "server", "deploy", "simulations")]
COMMANDS = typer.main.get_command(app)


LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)


def ids(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def anchors(page):
    """The places in a page to which a link can lead, by the rule of GitHub and of Sphinx."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    titles = (re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(text))
    return set(titles)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=ids)
def test_every_path_and_link_leads_somewhere(page):
    text = page.read_text()
    paths = {ROOT / path for path in re.findall(r"`((?:fedtl|tests|docs|simulations)/[\w/.]*)`", text)}
    missing = [str(path) for path in paths if not path.exists()]
    for link, place in LINK.findall(text):
        target = page.parent / link if link else page
        if not target.exists() or (place and place not in anchors(target)):
            missing.append(f"{link}#{place}")
    assert not missing, missing


def test_the_readme_is_one_screen():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 50
    assert not [line for line in lines if len(line) > 160 and "|" not in line]


def test_every_name_is_defined_in_the_file_that_is_named_for_it():
    named = re.findall(r"`([\w.]+)` \(`(fedtl/[\w/]+\.py)`\)", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) >= 4
    missing = [
        f"{name} in {path}"
        for name, path in named
        for part in name.split(".")
        if not re.search(rf"(?m)(def|class) {part}\b|^ *{part}\b.* = ", (ROOT / path).read_text())
    ]
    assert not missing, missing


def commands():
    """Each ``fedtl`` command line of the code blocks, without what follows two or more spaces."""
    for page in PAGES:
        for language, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), re.M | re.S):
            for line in block.splitlines() if language in ("", "sh") else []:
                if re.match(r"fedtl \S", line) and "|" not in line:  # a row of a table has more spaces
                    yield re.sub(r" (&|> \S+)$", "", re.split(r"\s{2,}", line.partition("#")[0].strip())[0])


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_that_is_shown_is_accepted(line):
    _, *words = shlex.split(re.sub(r"\[.*?\]", "", line))
    command, path = COMMANDS, []
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    command.make_context(" ".join(path), words)  # raises for an unknown option or a missing argument


def test_the_picture_of_the_readme_is_one_that_every_browser_shows():
    (path,) = re.findall(r"!\[[^\]]{40,}\]\(([^)]+\.svg)\)", (ROOT / "README.md").read_text())
    picture = ElementTree.parse(ROOT / path).getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {"".join(one.itertext()).strip() for one in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {f"{silo} (fedavg)" for silo in SCANNERS} | {"mean of all silos"} <= texts
    assert not [one.tag for one in picture.iter() if one.tag.endswith(("script", "image"))]


def test_names_that_contributors_are_sent_to_are_in_these_files():
    pairs = re.findall(r"`([A-Za-z_.]+)` \(`(fedtl/[\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(pairs) > 8
    missing = [
        f"{name} in {path}"
        for name, path in pairs
        if not re.search(rf"\b{name.split('.')[-1]}\b", (ROOT / path).read_text())
    ]
    assert not missing, missing


def test_the_gains_that_pages_quote_are_those_of_the_committed_results():
    """The page of verdicts has their numbers, README what follows from them."""
    page, readme = ((ROOT / name).read_text() for name in ("docs/explanation/verdict.md", "README.md"))
    gains = {}
    for name in ("digits", "ten-seeds/digits"):
        numbers = json.loads((ROOT / "simulations" / "results" / f"{name}.json").read_text())
        gains[name] = [100 * end for end in numbers["overall"]["fedtl"]["mean"]["ci95"]]
        assert " to ".join(f"{end:+.1f}" for end in gains[name]) in page.replace("\n", " ")
    (three_low, three_high), (ten_low, _) = gains.values()
    assert (three_low < 0 < three_high, ten_low > 0) == (True, True)
    assert "mean gain is unclear" in readme
    assert "it is above zero" in readme
