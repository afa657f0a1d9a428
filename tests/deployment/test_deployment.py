"""
Institutions as real processes: TLS, node keys, the gate, and the same Bench. Every verdict is read from result files
and records, not from what Flower says about its runs. The tests share one federation and run in this order.
"""

import os
import signal
import sqlite3
import subprocess
from contextlib import closing
from datetime import datetime, timedelta

import pytest
import torch
from safetensors.torch import load_file

from fedtl._util.randomness import address
from fedtl._util.records import to_plain
from fedtl.deployment.coordinator.asking import asked_until, verdicts_of
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.studies import stop_study
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.superlink import SuperLink
from fedtl.deployment.coordinator.transferability import study_transferability
from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.run import site_commands
from fedtl.deployment.site.status import site_status
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.privacy import taint_metadata
from fedtl.privacy.hash_chain import HashChainFile
from tests.experiments import ROUNDS_ONLY
from tests.real_processes import Federation, alive, around, fedtl_command, states, wait

pytestmark = pytest.mark.slow
SITES = ["plain", "inverted", "blurred"]
SMALL = ["rounds=2", "minimum_silos=3", 'data.silos=["plain","inverted","blurred"]', "engine.name=serial"]
SMALL += ROUNDS_ONLY
SLOTS = {  # what a method asks for whose own tensors cross
    "policy__roles": ["body", "aux", "norm", "head", "stats", "extra"],
    "policy__methods": ["fedtl", "scaffold"],
}
BUDGET = {"epsilon": 8.0, "lifetime_epsilon": 20.0, "clip": 1.0, "statistics": "public"}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Three sites with the simulation's secrets and rows, and one that approved nothing, connected through the gate."""
    its = Federation(tmp_path_factory.mktemp("federation"))
    try:
        for name in SITES:
            verdict = name != "blurred"  # that one trains privately later
            metrics = ["accuracy", "transferability"] if verdict else ["accuracy"]
            rules = {"policy__minimum_silos": 1, "policy__verdict": verdict, "policy__metrics": metrics}
            home = its.add(name, data__limit=100, **rules, **SLOTS)
            (home.path / "secret").write_bytes(address("secret", 0, name).to_bytes(8, "big"))
        its.add("faint")
        its.approve(its.bundle(load_experiment("digits", SMALL)), *SITES)
        its.up(*SITES)
        its.run("faint", "--part", "node")  # it runs no round
        its.connected("faint")
        yield its
    finally:
        its.close()


def simulated(path, *settings):
    folder = RunFolder.create(path / "run", load_experiment("digits", [*SMALL, *settings]))
    run(folder.experiment(), folder)
    return folder


def same_bits(federation, study, simulation):
    file = federation.server / "studies" / study / "shared.safetensors"
    theirs, ours = load_file(file), simulation.tensors("shared.safetensors")
    assert taint_metadata.read_labels(file) == simulation.labels(
        "shared.safetensors"
    )  # somebody's rows, as they are
    assert theirs.keys() == ours.keys()
    for name in ours:
        assert torch.equal(theirs[name], ours[name]), name


def accuracies(lines):
    return [{name: its["accuracy"] for name, its in line["silos"].items()} for line in lines]


def test_three_sites_compute_the_simulations_bits_and_a_fourth_without_an_approval_does_not_run(
    federation, tmp_path
):
    simulation = simulated(tmp_path)
    federation.start("digits", "first")
    result = federation.result("first")
    assert result["silos"] == dict.fromkeys(SITES, 2)
    same_bits(federation, "first", simulation)
    assert accuracies(federation.history("first")) == accuracies(
        [to_plain(line) for line in simulation.history()]
    )
    refused = [f"round {number}: faint: has not approved this bundle (code 7)" for number in (1, 2)]
    assert result["left_out"] == {"faint": refused}
    assert all("approved bundles: 0" in line["reason"] for line in federation.record("faint"))
    for name in SITES:
        lines = federation.record(name)
        words = ["approved", "received", "began", "sent", "received", "sent"]
        assert [line["what"] for line in lines] == words
        assert uncovered_lines(parse_lines(lines)) == []
        said = fedtl_command("silo", "verify", federation.folder / name).stderr
        assert "chain of 6 lines" in said
        assert "447,232 bytes" in said


def test_sites_with_a_wrong_key_or_certificate_cannot_connect(federation, tmp_path):
    """A key that is not admitted, the CA of another coordinator, and another host name. The site's record says which."""
    create_server(tmp_path / "other", "localhost", "127.0.0.1:1", 1)
    homes = {name: federation.add(name, admit=False) for name in ("stranger", "deceived", "misnamed")}
    (homes["deceived"].path / "ca.crt").write_bytes((tmp_path / "other" / "tls" / "ca.crt").read_bytes())
    port = federation.address.rpartition(":")[2]
    federation.change(homes["misnamed"].path / "silo.toml", server=f"127.1:{port}")
    started = [
        subprocess.Popen(
            site_commands(Home.open(home.path), ["node"])["node"],
            env=around(FLWR_HOME=str(home.path / "flwr"), FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for home in homes.values()
    ]  # fmt: skip
    stranger, *others = started
    assert [process.wait(60) for process in others] == [1, 1]
    wait("note", lambda: federation.record("stranger"), 60, [stranger])
    stranger.terminate()  # it waits to be admitted
    stranger.wait(30)
    why = {name: federation.record(name)[-1] for name in homes}
    assert {line["what"] for line in why.values()} == {"disconnected"}
    assert "not admitted" in why["stranger"]["reason"]
    assert "CERTIFICATE_VERIFY_FAILED" in why["deceived"]["reason"]
    assert "CERTIFICATE_VERIFY_FAILED" in why["misnamed"]["reason"]
    (homes["stranger"].path / "node.key").unlink()
    said = fedtl_command("silo", "run", homes["stranger"].path, code=2).stderr
    assert "node.key: No such file" in said


def rows_of_messages(federation):
    """How many rows each table of Flower's database has that holds messages or their tensors."""
    tables = ("message_ins", "message_res", "objects", "object_children", "run_objects")
    with closing(sqlite3.connect(federation.server / "state.db", timeout=30)) as database:
        return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_a_study_resumes_after_superlink_and_serverapp_were_killed(federation, tmp_path):
    """With SCAFFOLD, which keeps a slot at each site and sends another: both are what they are in a simulation."""
    simulation = simulated(tmp_path, "method.name=scaffold")
    assert any(name.startswith("control/") for name in simulation.tensors("shared.safetensors"))
    federation.approve(federation.bundle(simulation.experiment(), "scaffold"), *SITES)
    federation.start("scaffold", "second")
    wait("first round", lambda: federation.history("second"), 240, [federation.processes["server"]])
    wait("messages in the database", lambda: rows_of_messages(federation)["run_objects"], 60)
    federation.signal("server", "flwr-serverapp")
    federation.signal("server", "coordinator.bounded_superlink")
    assert federation.processes.pop("server").wait(60) != 0
    assert rows_of_messages(federation)["run_objects"] > 0  # what a killed run leaves
    assert len(federation.history("second")) == 1
    federation.up()
    federation.result("second")
    assert [line["round"] for line in federation.history("second")] == [1, 2]
    same_bits(federation, "second", simulation)


def test_of_runs_that_have_ended_nothing_stays_in_the_superlinks_database(federation):
    """Also of the one whose ServerApp was killed, which left some. SQLite uses the space again."""
    link = SuperLink(federation.server)

    def cleaned():
        link.clean_up()  # as the server does every hour
        return not any(rows_of_messages(federation).values())

    wait("an empty database", cleaned, 60, about=lambda: str(rows_of_messages(federation)))


def answers(federation, site, study):
    """What the site did for a study: the code of each refusal, "sent" or "verdict"."""
    lines = [line for line in federation.record(site) if line.get("study") == study]
    return [
        line.get("code") or line["what"] for line in lines if line["what"] in ("refused", "sent", "verdict")
    ]


def test_studies_queue_sites_rest_and_say_whether_joining_helped_and_one_withdraws(federation):
    """
    No site trains at this hour at first. "plain" trains, rests again, and answers the question after the study later, when it may. The two
    that allow it send what transfers.
    """
    closed = f"{datetime.now() + timedelta(hours=2):%H:%M}-{datetime.now() + timedelta(hours=3):%H:%M}"

    def hours(site, text=None):
        federation.change(federation.folder / site / "silo.toml", hours=text)

    def told(site, what, study="early"):
        wait(
            f"{what} of {site}", lambda: what in answers(federation, site, study), about=federation.last_words
        )

    for site in SITES:
        hours(site, closed)
    federation.change(federation.server / "server.toml", ask_again=2.0)
    rules = [
        "rounds=1",
        "minimum_silos=2",
        "request.verdict=true",
        "request.transferability=true",
        *ROUNDS_ONLY,
    ]
    rules += ["model.name=mlp", "model.settings.width=4"]  # a site trains ten more of them
    made = federation.bundle(load_experiment("digits", rules), "night")
    federation.approve(made, *SITES, studies=3)
    federation.start("night", "early")
    federation.start("night", "late")
    told("inverted", "hours")
    told("plain", "hours")
    assert {name: its.queued for name, its in federation.status().studies.items() if name in ("early", "late")} == {"early": False, "late": True}  # fmt: skip
    hours("plain")
    told("plain", "sent")
    hours("plain", closed)
    hours("inverted")
    result = federation.result("early")
    assert result["silos"] == {"inverted": 1, "plain": 1}
    assert result["left_out"]["blurred"][0].endswith("(hours)")
    found = study_transferability(HostedStudy(federation.server / "studies" / "early"))
    assert (found.silos, found.deployed) == (("inverted", "plain"), True)
    assert found.cut.fragment in (federation.server / "studies" / "early" / "cut.toml").read_text()
    told("inverted", "verdict")
    early = HostedStudy(federation.server / "studies" / "early")
    wait("refusal", lambda: verdicts_of(early)["plain"].endswith("(hours)"), about=federation.last_words)
    wait("late", lambda: not federation.status().studies["late"].queued, about=federation.last_words)
    stop_study(federation.server, "late")
    assert asked_until(early)
    assert "verdict" not in answers(federation, "plain", "early")
    hours("plain")
    hours("blurred")
    wait("both verdicts", lambda: asked_until(early) is None, about=federation.last_words)
    for site, word in verdicts_of(early).items():
        lines = federation.record(site)
        assert [line["verdict"] for line in lines if line["what"] == "verdict"] == [word]
        assert uncovered_lines(parse_lines(lines)) == []
    printed = fedtl_command("server", "withdraw", federation.server, "plain").stdout
    assert "study early: its updates counted" in printed
    assert f"fedtl server start {federation.server} night --study early-without-plain" in printed
    assert "suspended" in federation.status().admitted["plain"]
    fedtl_command("server", "start", federation.server, "night", "--study", "early-without-plain", "--now")
    without = federation.result("early-without-plain")
    assert without["silos"] == {"blurred": 1, "inverted": 1}
    assert answers(federation, "plain", "early-without-plain") == []
    other = HostedStudy(federation.server / "studies" / "early-without-plain")
    wait("its verdicts", lambda: asked_until(other) is None, about=federation.last_words)
    assert verdicts_of(other)["blurred"].endswith("(declined)")
    fedtl_command("server", "readmit", federation.server, "plain")


def charged(home):
    with HashChainFile(home.ledger).read(home.settings.name) as chain:
        return [line["round"] for line in chain.lines() if line["what"] == "charged"]


def sent(site, federation):
    return [line for line in federation.record(site) if line["what"] == "sent" and line["study"] == "third"]


def test_a_slow_and_a_killed_site_rejoin_and_no_round_is_charged_twice(federation):
    """Three sites. One trains privately and its SuperNode is killed in round 2; another is suspended meanwhile."""
    private = Home.open(federation.folder / "blurred")
    rules = {"policy__privacy": BUDGET, "policy__share_row_count": False, "policy__metrics": []}
    federation.change(private.path / "silo.toml", **rules)
    settings = load_experiment("digits", ["rounds=5", "minimum_silos=1"])
    federation.approve(federation.bundle(settings, "ready", dp_ready=True), *SITES)
    pace = max(line["seconds"] for line in federation.history("first"))  # of this machine, today
    deadline = max(20, round(3 * pace))
    tries = 12  # a machine with other work may not train a single round in time
    federation.patience(deadline, tries)
    federation.start("ready", "third")
    # It is suspended while others still train, so that it does not begin round 2 however busy the machine is.
    wait("reply", lambda: sent("plain", federation), 60 + tries * deadline, about=federation.last_words)
    federation.signal("plain", "fedtl.deployment.site.superexec", signal.SIGSTOP)
    wait("round 1", lambda: federation.history("third"), 60 + tries * deadline, about=federation.last_words)
    wait("round 2", lambda: charged(private)[-1:] == [2], tries * deadline, about=federation.last_words)
    federation.signal("blurred", "fedtl.deployment.site.supernode")
    assert federation.processes.pop("blurred").wait(60) != 0
    second = wait(
        "end of round 2",
        lambda: [line for line in federation.history("third") if line["round"] == 2],
        60 + tries * deadline,
        about=federation.last_words,
    )[0]
    federation.signal("plain", "fedtl.deployment.site.superexec", signal.SIGCONT)
    assert list(second["silos"]) == ["inverted"]
    assert second["left_out"]["plain"].startswith(f"plain: no reply within {deadline} s;")
    assert second["left_out"]["blurred"].startswith("blurred: ")
    back = federation.log("blurred").count("SuperNode ID") + 1
    while federation.log("blurred").count("SuperNode ID") < back:  # its key is refused for two heartbeats
        process = federation.run("blurred")
        wait(
            "end or connection",
            lambda p=process: p.poll() is not None or federation.log("blurred").count("SuperNode ID") == back,
        )
    federation.result("third", 60 + 4 * deadline)
    last = federation.history("third")[-1]
    assert list(last["silos"]) == ["blurred", "inverted", "plain"]
    assert last["silos"]["blurred"] == {}
    rounds = charged(private)
    assert rounds == sorted(set(rounds))
    assert {1, 2, 5} <= set(rounds)
    assert 0 < site_status(private).budget.spent <= 8.0
    assert (lines := sent("blurred", federation))
    assert all(line["private"] and line["weight"] == 1.0 and not line["metrics"] for line in lines)


def test_no_secret_is_in_a_log_or_in_a_command_line_of_fedtl(federation):
    files = ["exec.secret", "secret", "node.key"]
    secrets = [(federation.folder / name / file).read_bytes() for name in SITES for file in files]
    secrets += [
        (federation.server / file).read_bytes() for file in ("exec.secret", "tls/server.key", "tls/ca.key")
    ]
    lines = [
        line
        for secret in secrets
        for line in (secret, secret.hex().encode(), *secret.split(b"\n")[1:-2])
        if line
    ]
    logs = b"".join(path.read_bytes() for path in federation.folder.rglob("*.log"))
    ours = [
        " ".join(argv).encode()
        for name in federation.processes
        for _, argv in federation.children(name)
        if not any(word.endswith(("flwr-clientapp", "flwr-serverapp")) for word in argv)
    ]
    assert len(ours) >= 8
    for secret in lines:
        assert secret not in logs
        assert not any(secret in words for words in ours)


def test_processes_of_a_killed_site_and_server_end(federation):
    """Without systemd or a container around them."""
    names = ["inverted", "server"]
    started = [pid for name in names for pid, _ in federation.children(name)]
    assert len(started) >= 8
    try:
        for name in names:
            federation.processes[name].kill()
        wait("end of all", lambda: not any(map(alive, started)), 90, about=lambda: states(started))
    finally:
        for pid in filter(alive, started):
            os.kill(pid, signal.SIGKILL)
