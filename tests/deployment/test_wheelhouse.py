"""A folder of wheels is installed without a network, and not where a wheel was replaced."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deployment.test_installed import COMMANDS, WORDS
from tests.wheels import build_wheel

SCRIPT = Path(__file__).parents[2] / "deploy" / "wheelhouse.py"


def wheel(folder, name, version, content="", needs=""):
    info = f"{name}-{version}.dist-info"
    required = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", content)
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def written(folder):
    return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)


@pytest.fixture
def offline():
    """Words before a command that then runs in a network namespace without a network."""
    words = ["unshare", "-rn"]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces")
    return words


def install(offline, house, target, *more):
    words = ["--quiet", "--disable-pip-version-check", "--no-compile", "--no-index", "--find-links", house]
    words += ["--require-hashes", "-r", house / "requirements.txt", "--target", target, *more]
    return subprocess.run(
        [*offline, sys.executable, "-m", "pip", "install", *words], capture_output=True, text=True
    )


@pytest.mark.nightly
def test_the_wheel_of_fedtl_is_installed_and_used_without_a_network(tmp_path, offline):
    """A bundle is built and rehearsed. The libraries are those of this environment."""
    house = tmp_path / "house"
    house.mkdir()
    (tmp_path / "build").mkdir()
    shutil.move(build_wheel(tmp_path / "build"), house)
    assert written(house).stdout.startswith("1 wheels")
    done = install(offline, house, tmp_path / "site-packages", "--no-deps")
    assert done.returncode == 0, done.stderr
    away = "import socket; socket.create_connection(('192.0.2.1', 9), 5)"
    assert (
        "unreachable"
        in subprocess.run([*offline, sys.executable, "-c", away], capture_output=True, text=True).stderr
    )
    done = subprocess.run(
        [*offline, sys.executable, "-P", "-c", COMMANDS, ";".join(WORDS)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site-packages")},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "clinic" / "rehearsed").glob("*.txt"))) == 1


@pytest.mark.nightly
def test_the_wheels_are_installed_without_a_network_and_only_with_their_hashes(tmp_path, offline):
    house = tmp_path / "house"
    house.mkdir()
    wheel(house, "alpha_one", "1.0", "VALUE = 7", needs="beta")
    wheel(house, "beta", "2.0")
    assert written(house).stdout.startswith("2 wheels")

    done = install(offline, house, tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert "VALUE = 7" in (tmp_path / "there" / "alpha_one.py").read_text()
    assert (tmp_path / "there" / "beta.py").is_file()
    wheel(house, "beta", "2.0", "import os")
    assert "DO NOT MATCH THE HASHES" in install(offline, house, tmp_path / "other").stderr


def test_a_folder_with_anything_else_is_refused(tmp_path):
    spec = importlib.util.spec_from_file_location("wheelhouse", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    wheel(tmp_path, "beta", "2.0")
    wheel(tmp_path, "beta", "2.1")
    with pytest.raises(ValueError, match="two wheels of beta"):
        script.requirements(tmp_path)
    (tmp_path / "beta-2.0-py3-none-any.whl").unlink()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="not a wheel"):
        script.requirements(tmp_path)
