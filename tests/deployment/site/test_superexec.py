"""The SuperExec and its fork server: what it imports, what it must not import, and what it starts."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import LaunchResultStatus, subprocess_executor

from fedtl.deployment.flower_version import check_flower
from fedtl.deployment.site import superexec as executor
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.run import PARTS, site_commands
from fedtl.errors import ConfigError
from tests.real_processes import Federation, around


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "here", "localhost:1")


def test_it_imports_what_a_round_needs(home):
    assert {"torch", "opacus", "pandas"} <= set(executor.libraries(home))
    Federation.change(home.path / "silo.toml", policy__privacy=None, data__source="digits")
    assert set(executor.libraries(Home.open(home.path))) == set(executor.LIBRARIES)


def test_the_fork_server_has_no_fedtl_no_thread_and_no_gpu(home):
    """An approval covers the fedtl on disk, so none may be imported before a round."""
    code = (
        f"import json, sys, threading\nfor name in {executor.libraries(home)!r}:\n    __import__(name)\n"
        "import torch\n"
        "print(json.dumps([[x for x in sys.modules if x.split('.')[0] == 'fedtl'],"
        " threading.active_count(), torch.cuda.is_initialized()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=around(), capture_output=True, text=True)
    assert json.loads(done.stdout or "null") == [[], 1, False], done.stderr


def spec(kind, address="127.0.0.1:1"):
    return SimpleNamespace(
        task_type=kind, runtime_api_address=address, token="ab" * 128, parent_pid=1, task_id=1
    )


def test_a_client_app_gets_its_token_through_no_command_line(monkeypatch):
    started = []
    monkeypatch.setattr(
        executor.CONTEXT,
        "Process",
        lambda **words: started.append(words) or SimpleNamespace(start=lambda: None),
    )
    assert executor.launch(None, spec(TaskType.CLIENT_APP)).status == LaunchResultStatus.ACCEPTED
    ((words,),) = [its["args"] for its in started]
    assert started[0]["target"] is executor.run_client_app
    assert words[words.index("--token") + 1] == "ab" * 128


@pytest.mark.parametrize("kind", [kind for kind in TaskType if kind != TaskType.CLIENT_APP])
def test_a_site_runs_no_other_kind_of_task(kind, monkeypatch):
    monkeypatch.setattr(executor.CONTEXT, "Process", lambda **_: pytest.fail("started"))
    assert executor.launch(None, spec(kind)).status == LaunchResultStatus.FAILED


@pytest.mark.parametrize("error", [EOFError(), OSError("no memory")])
def test_a_round_that_cannot_be_forked_fails_alone(error, monkeypatch):
    def process(**_):
        raise error

    monkeypatch.setattr(executor.CONTEXT, "Process", process)
    result = executor.launch(None, spec(TaskType.CLIENT_APP))
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
