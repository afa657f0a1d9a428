"""The script of the SLURM page is executed: by stand-ins for sbatch and srun, with the real fedtl, until its time ends, and once more."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.pages.tutorial import FENCE, ROOT
from tests.real_processes import around

PAGE = (ROOT / "docs" / "howto" / "slurm.md").read_text()
JOB = "4711"
EXPERIMENT = """
rounds = 20
[data]
source = "digits"
limit = 40
[method]
name = "fedbn"
tune = { epochs = 0 }
choose = { candidates = ["tuned"] }
"""
# Options of sbatch and the form of their values, as the manual of SLURM has them.
OPTIONS = {
    "job-name": r"\S+",
    "ntasks": r"\d+",
    "cpus-per-task": r"\d+",
    "mem": r"\d+[KMGT]",
    "time": r"\d\d:\d\d:\d\d",
    "signal": r"(B:)?TERM@\d+",
    "requeue": None,
    "open-mode": "append|truncate",
    "output": r"\S*%j\S*",
}
# It starts the step, as srun does; where the job's time is to end, it sends the step SIGTERM after the first checkpoint.
SRUN = """#!{python}
import os, pathlib, signal, subprocess, sys, time
option, *step = sys.argv[1:]
assert option == "--cpus-per-task=" + os.environ["SLURM_CPUS_PER_TASK"], option
child = subprocess.Popen(step)
while os.environ.get("ENDS") and child.poll() is None:
    if list(pathlib.Path("runs").glob("*/checkpoint/state.pt")):
        child.send_signal(signal.SIGTERM)
        break
    time.sleep(0.02)
sys.exit(child.wait())
"""
FEDTL = '#!/bin/sh\nexec {python} -m fedtl "$@"\n'


def program(path, text):
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)


def options(script):
    """What ``#SBATCH`` lines before the first command ask for: sbatch reads no later ones."""
    head = re.split(r"(?m)^(?!#|$)", script, maxsplit=1)[0]
    return dict(re.findall(r"(?m)^#SBATCH --([\w-]+)=?(\S*)$", head))


def sbatch(folder, **more):
    """Submit the script as sbatch does: in its folder, with the variables of a job and with its log."""
    asked = options((folder / "fedtl.sbatch").read_text())
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": JOB, "SLURM_CPUS_PER_TASK": asked["cpus-per-task"]}
    with (folder / asked["output"].replace("%j", JOB)).open("a") as log:
        return subprocess.run(
            ["bash", "fedtl.sbatch"], cwd=folder, env=around(PATH=path, **job, **more), stdout=log, stderr=log, timeout=240
        ).returncode  # fmt: skip


def script():
    (text,) = [text for language, text in FENCE.findall(PAGE) if language == "bash"]
    return text


def test_the_options_of_the_script_are_those_of_sbatch():
    asked = options(script())
    assert script().count("#SBATCH") == len(asked)
    assert asked.keys() == OPTIONS.keys()
    wrong = [name for name, value in asked.items() if not re.fullmatch(OPTIONS[name] or "", value)]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.process
def test_a_job_that_is_ended_goes_on_when_it_is_requeued(tmp_path):
    (tmp_path / "fedtl.sbatch").write_text(script())
    (tmp_path / "exp.toml").write_text(EXPERIMENT)
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "srun", SRUN)
    program(tmp_path / "bin" / "fedtl", FEDTL)
    log, run = tmp_path / f"fedtl-{JOB}.log", tmp_path / "runs" / f"exp-{JOB}"
    assert sbatch(tmp_path, ENDS="1") == 130, log.read_text()
    assert (run / "checkpoint").is_dir()
    assert not (run / "result.json").exists()
    assert sbatch(tmp_path) == 0, log.read_text()
    assert (run / "result.json").exists()
    rounds = [int(one) for one in re.findall(r"round: (\d+) of 20", log.read_text())]
    assert rounds[-1] == 20
    assert tomllib.loads((run / "experiment.toml").read_text())["rounds"] == 20
