"""The help of every command, and what it imports."""

import re
import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fedtl.cli import main
from tests.commands import fedtl
from tests.experiments import MIXED


def test_without_a_command_there_is_help_and_with_version_a_version():
    done = fedtl()
    assert (done.returncode, done.stderr) == (2, "")
    assert "compare digits" in done.stdout
    assert re.fullmatch(r"fedtl \d+\.\d+\.\d+\n", fedtl("--version").stdout)


COMMANDS = typer.main.get_command(main.app)


def leaf_commands(group=COMMANDS, words=()):
    """Every command that is not a group, by its words."""
    for name, command in group.commands.items():
        path = (*words, name)
        if hasattr(command, "commands"):
            yield from leaf_commands(command, path)
        else:
            yield path, command


LEAVES = dict(leaf_commands())


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_the_help_of_every_command_shows_an_example_that_its_parser_accepts(words):
    command = LEAVES[words]
    (example,) = re.findall(r"Example: fedtl (.*)", command.help)
    given = shlex.split(example)
    assert tuple(given[: len(words)]) == words
    command.make_context(
        " ".join(words), given[len(words) :]
    )  # raises for an unknown option or a missing argument


def test_help_keeps_square_brackets():
    """rich reads [name] as markup and would drop it."""
    for words in ("audit", "show"):
        result = CliRunner().invoke(main.app, [words, "--help"])
        assert re.search(r"\[(audit|privacy)\]", result.output), result.output


def test_help_is_quick_and_needs_no_torch():
    loaded = "import sys, fedtl.cli.main; print([m for m in ('torch', 'flwr', 'ray', 'opacus', 'timm', 'sklearn') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip() == "[]"
    )


def test_a_run_needs_no_framework_that_it_does_not_use():
    small = ["rounds=1", "engine.name=serial", "data.limit=40", 'data.silos=["plain", "faint"]', *MIXED]
    words = [word for setting in small for word in ("--set", setting)]
    code = (
        "import sys\n"
        "for name in ('flwr', 'ray', 'opacus', 'timm', 'torchvision'): sys.modules[name] = None\n"
        f"sys.argv = ['fedtl', 'run', 'digits', *{words}, '--quiet', '--out', sys.argv[1]]\n"
        "import fedtl.cli.main; fedtl.cli.main.main()\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", code, f"{folder}/run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_no_word_of_help_is_taken_for_a_style(words):
    """A name in brackets, such as that of a table of settings, is not printed unless its bracket is escaped."""
    command = LEAVES[words]
    texts = [command.help or "", *(one.help or "" for one in command.params if hasattr(one, "help"))]
    assert [found for text in texts for found in re.findall(r"(?<!\\)\[[a-z][a-z_.]*\]", text)] == []
