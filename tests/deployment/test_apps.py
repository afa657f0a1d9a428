"""The two apps of a bundle exchange messages in Flower's wire format, in one process."""

import importlib.util
import json
from dataclasses import dataclass, field

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file

from fedtl.deployment.coordinator.admitted import AdmittedSite, write_admitted
from fedtl.deployment.coordinator.asking import verdicts_of
from fedtl.deployment.coordinator.bundle import build_bundle
from fedtl.deployment.coordinator.study import SERVER_FOLDER_VARIABLE, HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.site.home import SILO_FOLDER_VARIABLE
from fedtl.experiment.config.load import load_experiment
from fedtl.federation.flower import reply_from_message, task_to_records
from fedtl.federation.rounds import FederationConfig
from fedtl.messages import Refusal, Task
from fedtl.methods.server import ServerStep
from tests.deployment.site.sites import Site
from tests.federation.grids import wire

CONFIG = {"experiment": "digits", "study": "s"}
NODE = 77


@dataclass
class Grid:
    """A grid of one site, whose ClientApp answers at once."""

    app: object
    config: dict = field(default_factory=lambda: CONFIG)
    pushed: list = field(default_factory=list)

    def get_node_ids(self):
        return [NODE]

    def push_messages(self, messages):
        self.pushed = list(messages)
        for message in self.pushed:
            message.metadata.__dict__["_message_id"] = message.object_id
            message.metadata.__dict__["_src_node_id"] = 1
        return [message.object_id for message in self.pushed]

    def pull_messages(self, ids):
        context = Context(run_id=7, node_id=NODE, node_config={}, state=RecordDict(), run_config=self.config)
        return [wire(self.app(message=wire(message), context=context)) for message in self.pushed]


def app_of(folder, whose):
    """Import an app as Flower does, from the unpacked bundle."""
    spec = importlib.util.spec_from_file_location(f"{whose}_app", folder / whose / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    asked = ["rounds=2", "minimum_silos=2", "data.limit=40", "request.verdict=true"]
    settings = load_experiment("digits", asked)
    return build_bundle(tmp_path_factory.mktemp("server") / "bundles", "digits", settings)


@pytest.fixture
def both(made, tmp_path, monkeypatch):
    """A site that approved the bundle, its ClientApp, and the coordinator's folder with a study."""
    site = Site(tmp_path, policy__verdict=True)
    site.file = made.folder / "app" / "experiments" / "digits.toml"
    site.approve()
    write_admitted(tmp_path / "server", {"plain": AdmittedSite("key", NODE)})
    config = FederationConfig("s", 0, 2, ServerStep(), None, 1)
    start = load_file(made.folder / "start.safetensors")
    facts = {"deadline": 30.0, "tries": 1, "bundle": made.hash, "plan": "p", "verdict": True}
    plan = StudyPlan(config, site.roles, "digits", **facts)
    study = HostedStudy.create(tmp_path / "server" / "studies" / "s", plan, start)
    monkeypatch.setenv(SILO_FOLDER_VARIABLE, str(site.home.path))
    monkeypatch.setenv(SERVER_FOLDER_VARIABLE, str(tmp_path / "server"))
    return site, made.folder / "app", study, start


def test_a_study_runs_from_one_app_to_the_other(both):
    site, folder, study, start = both
    context = Context(run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config=CONFIG)
    app_of(folder, "server")(grid=Grid(app_of(folder, "clients")), context=context)
    assert json.loads((study.path / "result.json").read_text())["silos"] == {"plain": 2}
    shared = load_file(study.path / "shared.safetensors")
    assert shared.keys() == start.keys()
    assert any(not torch.equal(shared[name], start[name]) for name in start)
    words = ["received", "began", "sent", "received", "sent", "received", "verdict"]
    assert [line["what"] for line in site.lines()[-7:]] == words
    assert verdicts_of(study) == {"plain": site.lines()[-1]["verdict"]}


@pytest.mark.parametrize(
    ("said", "reason", "changes", "config"),
    [
        ("(tensors)", "'head.weight'", lambda s: {"shared": {**s, "head.weight": torch.zeros(10, 64)}}, CONFIG),
        ("(tensors)", "running_var", lambda s: {"shared": {**s, "body.features.1.running_var": torch.ones(32)}}, CONFIG),
        ("(tensors)", "as [64, 1, 3, 3]", lambda s: {"shared": {**s, "body.features.0.weight": torch.zeros(64, 1, 3, 3)}}, CONFIG),
        ("(plan)", "plan has 2 rounds", lambda s: {"round": 3}, CONFIG),
        ("(plan)", "the server sets 'privacy'", lambda s: {}, {**CONFIG, "privacy": "epsilon=100"}),
        ("(plan)", "'../../etc'", lambda s: {}, {**CONFIG, "experiment": "../../etc"}),
    ],
)  # fmt: skip
def test_the_server_gets_a_code_and_the_record_the_reason(both, said, reason, changes, config):
    site, folder, _, start = both
    task = Task(**{"study": "s", "round": 1, "rounds": 2, "seed": 0, "shared": start, **changes(start)})
    grid = Grid(app_of(folder, "clients"), config)
    grid.push_messages([Message(task_to_records(task), NODE, "train")])
    (message,) = grid.pull_messages([])
    reply = reply_from_message(message, "plain", task)
    assert isinstance(reply, Refusal)
    assert reply.reason.endswith(said)
    assert reason not in repr(message.content)
    assert reason in site.lines()[-1]["reason"]


def test_a_missing_folder_is_not_named_to_the_server(both, monkeypatch, tmp_path):
    _, folder, _, start = both
    monkeypatch.setenv(SILO_FOLDER_VARIABLE, str(tmp_path / "patients-of-2026"))
    task = Task("s", 1, 2, 0, start)
    grid = Grid(app_of(folder, "clients"))
    grid.push_messages([Message(task_to_records(task), NODE, "train")])
    (message,) = grid.pull_messages([])
    assert "patients" not in repr(message.content)
    assert reply_from_message(message, "plain", task).reason.endswith("(failed)")
