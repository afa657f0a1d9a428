"""The SuperExec and its fork server: what it imports, what it must not import, and what it starts."""

import json
import subprocess
import sys
import time
from hashlib import sha256
from types import SimpleNamespace

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import LaunchResultStatus, subprocess_executor

import fedtl
from fedtl.deployment.flower_version import check_flower
from fedtl.deployment.site import superexec as executor
from fedtl.deployment.site.approvals import code_files, code_hash
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.run import PARTS, site_commands
from fedtl.deployment.site.superexec import Launcher
from fedtl.errors import ConfigError
from tests.real_processes import Federation, around


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "here", "localhost:1")


def test_it_imports_what_a_round_needs(home):
    assert {"torch", "opacus", "pandas"} <= set(executor.libraries(home))
    Federation.change(home.path / "silo.toml", policy__privacy=None, data__source="digits")
    assert set(executor.libraries(Home.open(home.path))) == set(executor.LIBRARIES)


def test_the_fork_server_has_fedtl_and_no_thread_and_no_gpu(home):
    """A round imports nothing of fedtl that was not there when the files were listed."""
    code = (
        f"import json, sys, threading\nfor name in {executor.libraries(home)!r}:\n    __import__(name)\n"
        "import torch\n"
        "print(json.dumps(['fedtl.training.trainer' in sys.modules,"
        " threading.active_count(), torch.cuda.is_initialized()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=around(), capture_output=True, text=True)
    assert json.loads(done.stdout or "null") == [True, 1, False], done.stderr


def spec(kind, address="127.0.0.1:1"):
    return SimpleNamespace(
        task_type=kind, runtime_api_address=address, token="ab" * 128, parent_pid=1, task_id=1
    )


@pytest.fixture
def started(monkeypatch):
    """What was started, by the name of its context."""
    found = []
    for name in ("FORKED", "FRESH"):

        def process(name=name, **words):
            found.append((name, words))
            return SimpleNamespace(start=lambda: None)

        monkeypatch.setattr(getattr(executor, name), "Process", process)
    return found


def test_a_client_app_gets_its_token_through_no_command_line(started):
    launcher = Launcher(code_files())
    assert launcher.launch(spec(TaskType.CLIENT_APP)).status == LaunchResultStatus.ACCEPTED
    ((context, process),) = started
    (words,) = process["args"]
    assert (context, process["target"]) == ("FORKED", executor.run_client_app)
    assert words[words.index("--token") + 1] == "ab" * 128


def test_a_round_after_an_update_of_fedtl_does_not_run_the_old_code(started, monkeypatch, tmp_path):
    monkeypatch.setattr(fedtl, "__file__", str(tmp_path / "__init__.py"))
    for content in ("a = 1", "a = 2", "a = 1"):  # the same content, written again, counts as another
        (tmp_path / "a.py").write_text(content)
        if not started:
            launcher = Launcher(code_files())
        launcher.launch(spec(TaskType.CLIENT_APP))
        assert code_hash() == sha256(f"a.py {len(content)}\n{content}".encode()).hexdigest()
        time.sleep(0.02)  # the clock of the file system ticks every few milliseconds
    assert [context for context, _ in started] == ["FORKED", "FRESH", "FRESH"]


@pytest.mark.parametrize("kind", [kind for kind in TaskType if kind != TaskType.CLIENT_APP])
def test_a_site_runs_no_other_kind_of_task(kind, started):
    assert Launcher(()).launch(spec(kind)).status == LaunchResultStatus.FAILED
    assert not started


@pytest.mark.parametrize("error", [EOFError(), OSError("no memory")])
def test_a_round_that_cannot_be_forked_fails_alone(error, monkeypatch):
    def process(**_):
        raise error

    monkeypatch.setattr(executor.FRESH, "Process", process)
    result = Launcher(()).launch(spec(TaskType.CLIENT_APP))
    assert result.status == LaunchResultStatus.FAILED


def test_it_refuses_to_start_with_another_flower():
    check_flower(subprocess_executor, executor.KNOWN_HASH)
    with pytest.raises(ConfigError, match="flwr=="):
        check_flower(subprocess_executor, "0" * 64)


@pytest.mark.parametrize("part", PARTS)
def test_nothing_that_lies_in_the_working_folder_is_imported(part, home, tmp_path):
    for name in ("flwr", "torch", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    (home.path / "silo.toml").unlink()
    command = site_commands(home, [part])[part]
    done = subprocess.run(command, env=around(), cwd=tmp_path, capture_output=True, text=True)
    assert "has no silo.toml" in done.stderr


def test_no_secret_is_in_its_command_line(home):
    words = " ".join(executor.arguments(home)).encode()
    assert (home.path / "exec.secret").read_bytes() not in words
