"""Bundles are built and rehearsed from an installed fedtl, without a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fedtl
from fedtl.deployment.coordinator.app_files import APP_FILES

ROOT = Path(fedtl.__file__).parents[1]
COMMANDS = """
import sys
from pathlib import Path
import fedtl
from fedtl.cli.main import app
assert Path(fedtl.__file__).parents[1] == Path("site-packages").absolute(), fedtl.__file__
for words in sys.argv[1].split(";"):
    app(words.split(), standalone_mode=False)
"""
WORDS = [
    "server init srv --host localhost",
    "server bundle srv digits --set minimum_silos=3 --shape 1,8,8",
    "silo init clinic --name clinic --server localhost:1",
    "silo rehearse clinic srv/bundles/digits/digits.fab",
]


def test_the_apps_of_the_repository_are_those_of_a_bundle():
    assert {name: (ROOT / name).read_text() for name in APP_FILES} == APP_FILES


@pytest.mark.slow
def test_a_bundle_is_built_and_rehearsed_from_an_installed_fedtl(tmp_path):
    """The package is copied to a folder that holds nothing else, and the working folder is another one."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedtl", tmp_path / "site-packages" / "fedtl", ignore=ignore)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site-packages")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMMANDS, ";".join(WORDS)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "srv" / "bundles" / "digits" / "digits.fab") as bundle:
        assert {name: bundle.read(name).decode() for name in APP_FILES} == APP_FILES
    assert len(list((tmp_path / "clinic" / "rehearsed").glob("*.txt"))) == 1
