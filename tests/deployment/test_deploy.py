"""The files in deploy/: their commands run as processes, and the manifests fit Kubernetes' schema."""

import configparser
import re
import shlex
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from fedtl.deployment.coordinator.nginx import nginx_configuration
from fedtl.deployment.coordinator.reply_size import ReplySize
from fedtl.deployment.coordinator.settings import ServerSettings
from fedtl.experiment.config.load import load_experiment
from tests.real_processes import CLI, Federation, around, wait

DEPLOY = Path(__file__).parents[2] / "deploy"
PARTS = [("server", part) for part in ("link", "exec", "gate")] + [
    ("site", part) for part in ("node", "exec")
]


def composed(whose):
    content = yaml.safe_load((DEPLOY / f"compose.{whose}.yml").read_text())
    return {name: its["command"] for name, its in content["services"].items()}, content["services"]


def manifests(whose):
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{whose}.yaml").read_text()))


def of_kind(whose, kind):
    (found,) = [its for its in manifests(whose) if its["kind"] == kind]
    return found


def pods(whose):
    return of_kind(whose, "StatefulSet")["spec"]["template"]["spec"]


def unit(whose):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / "systemd" / f"fedtl-{whose}.service")
    return parser


@pytest.mark.parametrize("whose", ["server", "site"])
def test_compose_and_kubernetes_run_the_same_commands(whose):
    commands, _ = composed(whose)
    assert {its["name"]: its["args"] for its in pods(whose)["containers"]} == commands
    assert list(commands) == [part for owner, part in PARTS if owner == whose]
    everything = shlex.split(unit(whose)["Service"]["ExecStart"])[1:]
    word = next(iter(commands.values()))
    assert everything[:2] == word[:2]  # all parts at once


def gigabytes(text):
    return int(text.lower().removesuffix("i").removesuffix("g"))


@pytest.mark.parametrize("whose", ["server", "site"])
def test_every_way_to_run_a_part_has_the_same_limits(whose):
    _, services = composed(whose)
    limits = {its["name"]: its["resources"]["limits"] for its in pods(whose)["containers"]}
    memory = {name: gigabytes(its["memory"]) for name, its in limits.items()}
    processors = {name: int(its["cpu"]) for name, its in limits.items()}
    assert {name: gigabytes(its["mem_limit"]) for name, its in services.items()} == memory
    assert {name: its["cpus"] for name, its in services.items()} == processors
    assert all(its["pids_limit"] > 0 for its in services.values())
    assert gigabytes(unit(whose)["Service"]["MemoryMax"]) == sum(memory.values())
    assert unit(whose)["Service"]["CPUQuota"] == f"{100 * sum(processors.values())}%"
    assert int(unit(whose)["Service"]["TasksMax"]) > 0


@pytest.mark.parametrize("whose", ["server", "site"])
def test_temporary_files_are_limited(whose):
    """Of a Pod, all containers together may write what their limits of ephemeral storage add up to; /tmp must fit in."""
    _, services = composed(whose)
    (temporary,) = [its["emptyDir"] for its in pods(whose)["volumes"] if its["name"] == "tmp"]
    size = gigabytes(temporary["sizeLimit"])
    assert all(its["tmpfs"] == [f"/tmp:size={size}g"] for its in services.values())
    resources = [its["resources"] for its in pods(whose)["containers"]]
    assert sum(gigabytes(its["limits"]["ephemeral-storage"]) for its in resources) > size
    assert all("ephemeral-storage" in its["requests"] for its in resources)  # otherwise it is the limit


@pytest.mark.parametrize("whose", ["server", "site"])
def test_containers_share_a_network_namespace_and_have_few_rights(whose):
    _, services = composed(whose)
    first, *others = services
    assert all(services[name]["network_mode"] == f"service:{first}" for name in others)
    published = {name: its["ports"] for name, its in services.items() if "ports" in its}
    assert published == ({"link": ["8443:8443"]} if whose == "server" else {})
    for its in services.values():
        assert its["read_only"]
        assert its["cap_drop"] == ["ALL"]
        assert its["restart"] == "always"
    spec = pods(whose)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    for its in spec["containers"]:
        assert its["securityContext"]["readOnlyRootFilesystem"]
        assert its["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_site_can_only_connect_to_the_gate():
    policy = of_kind("site", "NetworkPolicy")["spec"]
    assert policy["podSelector"] == {}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    (way,) = policy["egress"]
    assert [block["ipBlock"]["cidr"] for block in way["to"]] == ["192.0.2.10/32"]
    assert way["ports"] == [{"protocol": "TCP", "port": 8443}]
    assert unit("site")["Service"]["IPAddressAllow"] == "localhost 192.0.2.10"
    server = of_kind("server", "NetworkPolicy")["spec"]
    assert "egress" not in server
    assert server["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8443}]}]


@pytest.mark.parametrize("whose", ["server", "site"])
def test_the_manifests_fit_kubernetes_schema(whose):
    validate = pytest.importorskip("kubernetes_validate").validate
    for its in manifests(whose):
        validate(its, "1.33", strict=True)
    wrong = of_kind(whose, "StatefulSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["argz"] = []
    with pytest.raises(Exception, match="argz"):
        validate(wrong, "1.33", strict=True)


@pytest.mark.parametrize("whose", ["server", "site"])
def test_systemd_reads_the_units(whose, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze")
    text = (DEPLOY / "systemd" / f"fedtl-{whose}.service").read_text()
    path = tmp_path / f"fedtl-{whose}.service"
    path.write_text(text.replace("/opt/fedtl/bin/fedtl", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert "Unknown" not in done.stderr
    assert f"{path.name}:" not in done.stderr


def test_deploys_nginx_conf_is_the_generated_one():
    settings = ServerSettings(host="fl.example.org", listen="0.0.0.0:8443")
    made = nginx_configuration(Path("/var/lib/fedtl/server"), settings, {}, ReplySize()).splitlines()
    assert (DEPLOY / "nginx.conf").read_text().splitlines() == [x for x in made if not x.startswith("user ")]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_an_image_installs_flower_without_ray(name):
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r" '\.\[(.*)\]'", (DEPLOY / name).read_text())
    lines = [line for extra in extras.split(",") for line in project["optional-dependencies"][extra]]
    needed = [Requirement(line) for line in [*project["dependencies"], *lines]]
    assert "flwr" in {requirement.name for requirement in needed}
    assert "ray" not in {requirement.name for requirement in needed}
    assert not any(requirement.extras for requirement in needed)


def test_images_send_no_telemetry_and_install_nothing_at_run_time():
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (DEPLOY / name).read_text()
        for setting in (
            "TELEMETRY_ENABLED=0",
            "DISABLE_UPDATE_CHECK=1",
            "DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1",
        ):
            assert f"FLWR_{setting}" in text
        assert "USER fedtl" in text


@pytest.mark.slow
def test_the_commands_of_the_compose_files_run_a_study(tmp_path):
    """Each service is a process; /data is a folder here."""
    its = Federation(tmp_path)
    its.patience(120)
    home = its.add("plain", data__limit=20, policy__minimum_silos=1)
    its.approve(its.bundle(load_experiment("digits", ["rounds=1", "data.limit=20"])), "plain")
    folders = {"/data/server": str(its.server), "/data/site": str(home.path)}
    started = {}
    try:
        for whose, part in PARTS:
            words = [folders.get(word, word) for word in composed(whose)[0][part]]
            with (tmp_path / f"{whose}-{part}.log").open("wb") as log:
                started[whose, part] = subprocess.Popen(
                    [*CLI, *words],
                    env=around(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                )  # fmt: skip
        wait("server", lambda: its.status().running)
        wait("registration", lambda: its.status().admitted == {"plain": "registered"})
        wait(
            "site",
            lambda: (
                "SuperNode ID" in (tmp_path / "site-node.log").read_text()
                or restart(started, tmp_path, folders)
            ),
        )
        its.start("digits", "only")
        path = its.server / "studies" / "only" / "result.json"
        wait("result", path.exists, 150)
        assert [process.poll() for process in started.values()] == [None] * 5
        assert its.record("plain")[-1]["what"] == "sent"
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
        for process in started.values():
            process.wait(40)


def restart(started, folder, folders):
    """Restart a site that ended because its server was not there yet, as compose would."""
    if started["site", "node"].poll() is not None:
        words = [folders.get(word, word) for word in composed("site")[0]["node"]]
        with (folder / "site-node.log").open("ab") as log:
            started["site", "node"] = subprocess.Popen(
                [*CLI, *words], env=around(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
    return False
