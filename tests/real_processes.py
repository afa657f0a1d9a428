"""A coordinator and its sites as real processes on loopback, driven by fedtl's own commands."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import tomli_w

import fedtl
from fedtl.deployment.coordinator.bundle import build_bundle
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.sites import admit_site
from fedtl.deployment.coordinator.status import server_status
from fedtl.deployment.coordinator.studies import start_study
from fedtl.deployment.site.approve import approve_bundle
from fedtl.deployment.site.egress_log import verify_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.rehearse import rehearse
from tests.commands import fedtl as fedtl_forked

ROOT = Path(fedtl.__file__).parents[1]
CLI = [sys.executable, "-m", "fedtl"]


def around(**more):
    """The environment of a process that imports this very fedtl; whatever proxy is set is not for loopback."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait(what, condition, seconds=240.0, alive=(), about=str):
    """Return what ``condition`` found. ``about()`` says more in the failure."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        for process in alive:
            assert process.poll() is None, (
                f"{process.args} ended with {process.returncode}, waiting for {what}"
            )
        assert time.monotonic() < end, f"no {what} within {seconds:g} s\n{about()}"
        time.sleep(0.2)
    return found


def fedtl_command(*words, code=0):
    done = fedtl_forked(*words, env=around(), timeout=120)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def descendants(pid):
    """(pid, argv) of everything that a process started, however deep."""
    rows = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            rows[int(path.name)] = int(stat[1]), (path / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
    found, new = [], {pid}
    while new:
        mine = {pid for pid, (parent, _) in rows.items() if parent in new}
        found += [(pid, [word.decode() for word in rows[pid][1]]) for pid in mine]
        new = mine
    return found


def alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def states(pids):
    """A line for each process that is still there: its state, where it waits in the kernel, its command line."""
    lines = []
    for pid in filter(alive, pids):
        process = Path(f"/proc/{pid}")
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        command = (process / "cmdline").read_text().replace("\0", " ")
        lines.append(f"{pid} {state} {(process / 'wchan').read_text()} {command[:200]}")
    return "\n".join(lines)


class Federation:
    """``folder/server`` and ``folder/<site>``; every process is one that this object started."""

    def __init__(self, folder, gate=True):
        self.folder, self.server, self.gate = folder, folder / "server", gate
        self.port, self.outside = free_port(), free_port()
        self.processes = {}
        create_server(self.server, "localhost", f"127.0.0.1:{self.outside}", self.port)

    @property
    def address(self):
        return f"localhost:{self.outside if self.gate else self.port}"

    def patience(self, deadline, tries=3):
        self.change(self.server / "server.toml", deadline=float(deadline), tries=tries)

    @staticmethod
    def change(path, **values):
        table = tomllib.loads(path.read_text())
        for key, value in values.items():
            *above, last = key.split("__")
            inner = table
            for one in above:
                inner = inner.setdefault(one, {})
            if value is None:
                inner.pop(last, None)
            else:
                inner[last] = value
        path.write_text(tomli_w.dumps(table))

    def add(self, name, admit=True, **settings):
        """A site with digits; without differential privacy unless ``policy__privacy`` says so."""
        folder = self.folder / name
        Home.create(folder, name, self.address)
        (folder / "ca.crt").write_bytes((self.server / "tls" / "ca.crt").read_bytes())
        given = {
            "port": free_port(),
            "heartbeat": 10,
            "data__source": "digits",
            "data__path": "",
            "policy__privacy": None,
            "policy__share_row_count": True,
            "policy__metrics": ["accuracy"],
            **settings,
        }
        self.change(folder / "silo.toml", **given)
        if admit:
            admit_site(self.server, folder / "node.key.pub", "")
        return Home.open(folder)

    def bundle(self, experiment, name="digits", dp_ready=False):
        return build_bundle(self.server / "bundles", name, experiment, dp_ready=dp_ready)

    def approve(self, its, *sites, studies=1):
        for site in sites:
            home = Home.open(self.folder / site)
            rehearse(home, its.file, studies)
            approve_bundle(home, its.hash)

    def start(self, bundle, study):
        start_study(self.server, bundle, study)

    def run(self, name, *words, **env):
        """Server or site, as its owner would start it. ``words``: options of the command."""
        start = ["server", "run", self.server] if name == "server" else ["silo", "run", self.folder / name]
        words = [*start, *words]
        if name == "server" and not self.gate:
            words.append("--no-gate")
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*CLI, *map(str, words)],
                env=around(**env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def last_words(self):
        """The end of every log, and the state of every process, for a failure that is not seen again."""
        logs = [
            f"== {path.stem}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted(self.folder.glob("*.log"))
        ]
        return "\n".join([*logs, states([pid for name in self.processes for pid, _ in self.children(name)])])

    def up(self, *names, **env):
        """``env``: of the server alone."""
        process = self.run("server", **env)
        wait("server", lambda: self.status().running, alive=[process])
        wait("registration", lambda: all(v == "registered" for v in self.status().admitted.values()))
        for name in names:
            self.run(name)
        for name in names:
            self.connected(name)

    def connected(self, name, times=1):
        wait(name, lambda: self.log(name).count("SuperNode ID") >= times, alive=[self.processes[name]])

    def status(self):
        return server_status(self.server)

    def history(self, study):
        path = self.server / "studies" / study / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def result(self, study, seconds=400.0):
        path, stopped = (self.server / "studies" / study / name for name in ("result.json", "stopped"))
        wait(
            f"end of {study}", lambda: path.exists() or stopped.exists(), seconds, [self.processes["server"]]
        )
        assert not stopped.exists(), stopped.read_text()
        return json.loads(path.read_text())

    def record(self, name):
        """The site's egress record, checked as a third party would."""
        home = Home.open(self.folder / name)
        return verify_lines(list(home.record.export()), name)

    def children(self, name):
        return descendants(self.processes[name].pid)

    def signal(self, name, part, number=signal.SIGKILL):
        """To the child whose command line has this word; kill -9 unless told otherwise."""
        found = [pid for pid, argv in self.children(name) if any(part in word for word in argv)]
        assert found, f"{name} has no {part}: {self.children(name)}"
        for pid in found:
            os.kill(pid, number)

    def stop(self, name):
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(40)

    def close(self):
        """All sites at once, then the server; once more does nothing."""
        for name, process in self.processes.items():
            if name != "server" and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name in sorted(self.processes, key=lambda name: name == "server"):
            self.stop(name)
