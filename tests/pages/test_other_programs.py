"""Lines of pages that begin with make, pip or ray are executed, or have a reason here."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.commands import run_forked
from tests.deployment.test_wheelhouse import wheel, written
from tests.experiments import ROUNDS_ONLY
from tests.pages.tutorial import FENCE, ROOT, command_lines
from tests.real_processes import around, free_port, wait

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [ROOT / folder / "README.md" for folder in ("clients", "server", "deploy", "simulations")]
TUTORIALS = ROOT / "docs" / "tutorials"  # test_tutorials.py executes all of their lines
PIP = (
    "python -m pip install --no-index --find-links wheelhouse --require-hashes -r wheelhouse/requirements.txt"
)
MAKE = {  # what each runs, in .venv/bin, in this order
    "make demo": ["fedtl compare digits"],
    "make test": ["python -m pytest -n 4"],
    "make wheelhouse": ["python -m pip wheel", "python deploy/wheelhouse.py wheelhouse"],
}
RAY = ["ray start --head --port=6379", "ray start --address=10.0.0.1:6379"]
EXECUTED = {*MAKE, *RAY, PIP, 'pip install "fedtl[ray]"'}


def lines():
    """Every line of a shell block that is not a command of fedtl's."""
    for page in PAGES:
        for language, text in FENCE.findall(page.read_text()) if page.parent != TUTORIALS else ():
            if language in ("", "sh"):
                yield from command_lines(text)


def test_every_line_of_another_program_is_executed():
    found = {line for line in lines() if re.match(r"(make|pip|python|ray|cp|curl|docker|git|sudo|uv) ", line)}
    assert found == EXECUTED


@pytest.mark.parametrize("line", MAKE)
def test_make_runs_what_the_page_says(line, tmp_path):
    """The Makefile itself; in place of the installed programs are two that write down how they were called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("fedtl", "python"):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> called\n')
        program.chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()  # newer than the two files that it depends on
    subprocess.run(line.split(), cwd=tmp_path, check=True, capture_output=True, timeout=60)
    called = (tmp_path / "called").read_text().splitlines()
    assert len(called) == len(MAKE[line])
    assert all(one.startswith(wanted) for one, wanted in zip(called, MAKE[line], strict=True)), called


def pip(line, folder, *more):
    words = shlex.split(line)
    words = words[words.index("install") :]
    return subprocess.run(
        [sys.executable, "-m", "pip", *words, "--disable-pip-version-check", *more],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_line_that_installs_without_a_network_takes_what_the_wheelhouse_has(tmp_path):
    """With one small wheel; test_wheelhouse.py installs fedtl's own, nightly."""
    house = tmp_path / "wheelhouse"
    house.mkdir()
    wheel(house, "alpha_one", "1.0", "VALUE = 7")
    assert written(house).returncode == 0
    done = pip(PIP, tmp_path, "--target", "there", "--no-compile")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "alpha_one.py").read_text() == "VALUE = 7"


def test_pip_knows_every_extra_that_a_page_or_a_message_names(tmp_path):
    """pip resolves them from what is installed here; nothing is installed."""
    files = [*PAGES, *(ROOT / "fedtl").rglob("*.py"), *(ROOT / "fedtl").rglob("*.j2")]
    extras = {found for file in files for found in re.findall(r"fedtl\[([a-z0-9,]+)\]", file.read_text())}
    assert "ray" in extras
    words = " ".join(f'"fedtl[{extra}]"' for extra in sorted(extras))
    done = pip(f"pip install {words}", tmp_path, "--dry-run", "--no-index")
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stdout + done.stderr


@contextmanager
def node(line, number, folder, rays):
    """
    Run a line that starts a node of Ray, with one core and on this machine alone; end it with all of its processes.

    ``rays``: the folder of Ray's own files, with a short path because Ray has sockets in it.
    """
    program = Path(sys.executable).with_name("ray")
    few = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000", "--block"]
    few += [f"--temp-dir={rays}", "--include-dashboard=false"] if number == 0 else []
    said = folder / f"node{number}.log"
    quiet = around(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    with said.open("w") as log:
        process = subprocess.Popen(
            [program, *shlex.split(line)[1:], *few], env=quiet, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield wait("node", lambda: "Ray runtime started" in said.read_text(), 120, [process], said.read_text)
    finally:
        for signal_ in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal_)
                process.wait(20)


@pytest.mark.nightly
def test_the_lines_of_ray_start_two_nodes_on_which_the_run_of_the_page_ends(tmp_path):
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}"
    (command,) = re.findall(r"fedtl (run exp\.toml .*)", (ROOT / "docs/howto/ray.md").read_text())
    words = shlex.split(command.replace("10.0.0.1:6379", address))
    small = ["rounds=1", "data.limit=40", *ROUNDS_ONLY]
    (tmp_path / "exp.toml").write_text((ROOT / "fedtl/experiments/digits.toml").read_text())
    with ExitStack() as nodes:
        rays = nodes.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        for number, line in enumerate(RAY):
            line = line.replace("10.0.0.1:6379", address).replace("6379", address.partition(":")[2])
            nodes.enter_context(node(line, number, tmp_path, rays))
        sets = [word for setting in small for word in ("--set", setting)]
        done = run_forked(["fedtl", *words, *sets, "--out", "run"], tmp_path, around(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["workers"] == 2
