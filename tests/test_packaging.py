"""What is installed is what was promised: the wheel's contents, a run from it, and names from other packages."""

import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

import fedtl
import fedtl._util.registry
from fedtl._util.registry import Registry
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.methods.coral import Coral
from fedtl.methods.registry import METHODS, TERMS
from tests.wheels import build_wheel

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"fedtl", f"fedtl-{fedtl.__version__}.dist-info"}
    ours = {name for name in names if name.startswith("fedtl/")}
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "fedtl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours == here
    assert {"fedtl/py.typed", "fedtl/experiments/digits.toml", "fedtl/report/page.html.j2"} <= ours
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_a_run_from_the_wheel_needs_nothing_of_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    where = f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); import fedtl; print(fedtl.__file__)"
    go = f"{where}; from fedtl.cli.main import main; main()"
    words = ["run", "digits", "--set", "rounds=1", "--set", "data.limit=20", "--set", "engine.name=serial"]
    done = subprocess.run(
        [sys.executable, "-c", go, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))
    assert len(list((tmp_path / "runs").glob("*/report.html"))) == 1


def offering(monkeypatch, group, **points):
    found = EntryPoints(EntryPoint(name, value, group) for name, value in points.items())
    monkeypatch.setattr(fedtl._util.registry, "entry_points", lambda group: found.select(group=group))


def test_an_installed_package_adds_a_name_and_cannot_take_one(monkeypatch):
    offering(monkeypatch, "fedtl.methods", fedmine="fedtl.methods.sharing:fedper", fedavg="os:system")
    table = Registry("fedtl.methods", {"fedavg": METHODS["fedavg"]})
    assert list(table) == ["fedavg", "fedmine"]
    assert table["fedmine"] is METHODS["fedper"]
    assert table["fedavg"] is METHODS["fedavg"]
    assert "fedbn" not in table
    assert len(table) == 2


def test_an_installed_package_adds_a_loss_term(monkeypatch):
    offering(monkeypatch, "fedtl.terms", mine="fedtl.methods.coral:Coral")
    monkeypatch.setattr(TERMS, "_installed", Registry(TERMS.group, TERMS.own)._installed)
    its = load_experiment(
        "digits",
        ["method.name=fedavg", 'method.terms=[{name="mine", weight=0.5}]', "data.target_domain=inverted"],
    )
    assert method_of(its.method).objective[-1] == Coral(0.5)


def test_a_name_in_an_experiment_is_never_imported(monkeypatch):
    offering(monkeypatch, "fedtl.methods")
    with pytest.raises(ConfigError, match="is unknown"):
        load_experiment("digits", ["method.name=os:system"])
    with pytest.raises(ConfigError, match="is unknown"):
        load_experiment("digits", ["data.source=fedtl.data.npz"])
