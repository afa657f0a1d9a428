"""
A tutorial that is run as its reader would run it: files are written, Python and commands are run in order, in one folder.

A block with a language whose first line is a comment with a file's name is that file. Other Python is executed. A block without a
language has commands, one a line; one that ends with ``&`` goes on until the page ends. ``text`` is what the last command printed. Run: python -m tests.pages.tutorial PAGE to
write these outputs anew.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.commands import ROOT, run_forked, start_forked

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
FILE = re.compile(r"# ([\w/.-]+\.(?:toml|py|csv))\n")
SHELL = re.compile(r"\$\((.*?)\)")
LONG = {"run", "compare"}  # these take --workers; a test has one, because results do not depend on it
NUMBER = re.compile(r"[0-9a-f]{4}( [0-9a-f]{4}){5}|[-+]?\d[\d.,]*")  # also the fingerprint of a key


@dataclass(frozen=True)
class Block:
    """A block of code, and where its text lies in the page."""

    language: str
    text: str
    start: int
    end: int


def blocks(page: str) -> Iterator[Block]:
    for found in FENCE.finditer(page):
        yield Block(found[1], found[2], found.start(2), found.end(2))


def command_lines(text: str) -> list[str]:
    """The commands of a block, without what is said about them after two spaces."""
    lines = (re.split(r"\s{2,}", line.partition(" # ")[0].strip())[0] for line in text.splitlines())
    return [line for line in lines if line]


def run_command(line: str, folder: Path) -> str:
    """Run one command; return what it printed to stdout. The shell gives what stands in ``$(...)``."""
    line = SHELL.sub(lambda found: _shell(found[1], folder), line)
    program, *words = shlex.split(line.partition(" > ")[0])
    if program in ("fedtl", "python"):
        if words[0] in LONG:
            words += ["--workers", "1"]
        environment = {**os.environ, "COLUMNS": "80"}
        command = [program, *words] if program == "fedtl" else words
        done = run_forked(command, folder, environment, timeout=1500)
    else:
        assert program == "cp"
        done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    if " > " in line:
        (folder / line.partition(" > ")[2]).write_text(done.stdout)
    return done.stdout


def _shell(words: str, folder: Path) -> str:
    return subprocess.run(
        words, shell=True, check=True, cwd=folder, capture_output=True, text=True
    ).stdout.strip()


def start_command(line: str, folder: Path, running: ExitStack) -> None:
    """Start a command that goes on until ``running`` is closed; what it prints goes to a file."""
    words = shlex.split(line.removesuffix("&"))
    process = start_forked(
        words, folder / f"{'-'.join(words)}.log", folder, {**os.environ, "PYTHONPATH": str(ROOT)}
    )
    running.callback(process.join, 60)
    running.callback(process.terminate)


def run_page(page: str, folder: Path) -> Iterator[tuple[Block, str]]:
    """Run all blocks; yield each block of output with what the command before it printed."""
    with ExitStack() as running:
        yield from run_blocks(page, folder, running)


def run_blocks(page: str, folder: Path, running: ExitStack) -> Iterator[tuple[Block, str]]:
    """As ``run_page``; commands that end with ``&`` go on until ``running`` is closed."""
    output, names = "", {"__name__": "tutorial"}
    for block in blocks(page):
        if block.language == "text":
            yield block, output
        elif named := FILE.match(block.text):
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, "tutorial", "exec"), names)
        elif not block.language:
            for line in command_lines(block.text):
                if line.endswith("&"):
                    start_command(line, folder, running)
                else:
                    output = run_command(line, folder)


def words_of(output: str) -> list[str]:
    """What of an output is the same on every machine: its lines of words, with # for each number."""
    lines = (" ".join(NUMBER.sub("#", line).split()) for line in output.splitlines())
    return [line for line in lines if line]


def shown(output: str) -> str:
    """An output as a page shows it."""
    return "\n".join(line.rstrip() for line in output.strip("\n").splitlines()) + "\n"


def rewritten(page: str, folder: Path) -> str:
    """The page with the outputs of this run."""
    for block, output in reversed(list(run_page(page, folder))):
        page = page[: block.start] + shown(output) + page[block.end :]
    return page


if __name__ == "__main__":
    for source in [Path(argument).resolve() for argument in sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            source.write_text(rewritten(source.read_text(), Path(place)))
