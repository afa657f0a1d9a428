"""Prometheus' text format, served to this machine alone; what is logged as JSON lines."""

import json
import logging
import re
import stat
import tarfile
import urllib.error
import urllib.request

import pytest

from fedtl.deployment import event_log as logs
from fedtl.deployment.event_log import event_log, log_event
from fedtl.deployment.metrics import Metric, Value, exposition, serve_metrics
from fedtl.deployment.site.backup import back_up_site
from fedtl.deployment.site.home import LOG_FILES, Home
from fedtl.errors import ConfigError
from tests.real_processes import free_port

METRICS = [
    Metric("round", "last finished round", [Value.of(3, study="a"), Value.of(0, study='b"\\\n')]),
    Metric("bytes_total", "all bytes", [Value.of(1.5)], "counter"),
    Metric("nothing", "none", []),
]


def parsed(text):
    """By name and labels, after the grammar of Prometheus' exposition formats, version 0.0.4."""
    assert text.endswith("\n")
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) [a-z_]+ .+", line)
            continue
        name, labels, value = re.fullmatch(
            r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)+)\})? (\S+)', line
        ).groups()
        found[name, labels or ""] = float(value)
    return found


def test_the_text_follows_the_grammar():
    text = exposition(METRICS)
    assert parsed(text) == {
        ("fedtl_round", 'study="a"'): 3.0,
        ("fedtl_round", r'study="b\"\\\n"'): 0.0,
        ("fedtl_bytes_total", ""): 1.5,
    }
    assert "# TYPE fedtl_bytes_total counter\n" in text


def test_figures_are_served_on_loopback_and_nothing_else_is():
    port = free_port()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with serve_metrics(port, lambda: METRICS):
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert reply.read().decode() == exposition(METRICS)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            opener.open(f"http://127.0.0.1:{port}/", timeout=5)
        with pytest.raises(ConfigError, match="--metrics"), serve_metrics(port, lambda: METRICS):
            pass
        with pytest.raises(urllib.error.URLError, match="refused"):
            opener.open(f"http://127.0.0.2:{port}/metrics", timeout=5)
    with serve_metrics(None, lambda: pytest.fail("asked")):
        pass


def test_a_log_line_is_json_and_the_file_is_private_and_rotated(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "FILE_BYTES", 500)
    log = logging.getLogger("fedtl.somewhere")
    with event_log(tmp_path, ["node", "exec"]):
        for number in range(20):
            log_event(log, 'round "1"\nfailed', {"study": "a", "round": number}, logging.WARNING)
    log.warning("later")
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["log.jsonl", *(f"log.jsonl.{number}" for number in range(1, 5))]
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size <= 500
    (*_, last) = (json.loads(line) for line in files[0].read_text().splitlines())
    assert (last["round"], last["study"], last["level"]) == (19, "a", "warning")
    assert (last["text"], last["source"]) == ('round "1"\nfailed', "fedtl.somewhere")


@pytest.mark.parametrize("rotated", [False, True])
def test_a_log_that_is_removed_or_renamed_is_made_anew(tmp_path, rotated):
    log, path = logging.getLogger("fedtl.somewhere"), tmp_path / "log.jsonl"
    with event_log(tmp_path, ["node", "exec"]):
        log.warning("before")
        if rotated:
            path.rename(tmp_path / "log.jsonl.old")
            path.write_text("")
        else:
            path.unlink()
        log.warning("after")
        log.warning("last")
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["after", "last"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 or rotated


def test_the_tracebacks_of_a_site_are_private_and_rotated(tmp_path, monkeypatch):
    home = Home.create(tmp_path / "home", "here", "localhost:1")
    monkeypatch.setattr(logs, "FILE_BYTES", 500)
    for number in range(60):
        home.log(f"Traceback:\n  50 % of round {number}\nRuntimeError: no value")
    files = [home.path / name for name in LOG_FILES]
    assert sorted(home.path.glob("silo.log*")) == sorted(files)
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size <= 500
    assert files[0].read_text().endswith("\n  50 % of round 59\nRuntimeError: no value\n")
    backup = tmp_path / "backup"
    back_up_site(home, backup)
    with tarfile.open(backup) as archive:
        assert set(LOG_FILES) <= set(archive.getnames())
