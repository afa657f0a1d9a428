"""A folder of wheels is installed without a network, and not where a wheel was replaced."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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


@pytest.mark.nightly
def test_the_wheels_are_installed_without_a_network_and_only_with_their_hashes(tmp_path):
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode
    ):
        pytest.skip("no network namespaces")
    house = tmp_path / "house"
    house.mkdir()
    wheel(house, "alpha_one", "1.0", "VALUE = 7", needs="beta")
    wheel(house, "beta", "2.0")
    assert written(house).stdout.startswith("2 wheels")

    def install(target):
        words = ["--no-index", "--find-links", house, "--require-hashes", "-r", house / "requirements.txt"]
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-compile",
        ]
        return subprocess.run(
            ["unshare", "-rn", *pip, *words, "--target", target], capture_output=True, text=True
        )

    done = install(tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert "VALUE = 7" in (tmp_path / "there" / "alpha_one.py").read_text()
    assert (tmp_path / "there" / "beta.py").is_file()
    wheel(house, "beta", "2.0", "import os")
    assert "DO NOT MATCH THE HASHES" in install(tmp_path / "other").stderr


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
