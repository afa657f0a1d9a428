"""A Ray cluster of two nodes on this machine gives the bits of the serial engine, also when a node is lost."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from fedtl._util.records import to_plain
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import ConfigError, DataError, FedTLError, SiloFailed
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.messages import Task
from fedtl.methods.registry import METHODS
from fedtl.models.registry import model_spec
from fedtl.simulation.engine import Fit, Job, WorkerContext
from fedtl.simulation.serial import Serial
from fedtl.training.loop import TrainingConfig
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer
from tests.experiments import ROUNDS_ONLY

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of sockets and pipes
]
from fedtl.simulation.ray import RayCluster  # noqa: E402, only where there is ray

NAMES = [f"s{number}" for number in range(10)]


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """
    No usage reports; the workers can import this module, which defines the jobs. Ray runs workers at low priority, so that
    they would wait for whatever else this machine does; here a test waits for them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield


@contextmanager
def two_nodes():
    """(cluster, its nodes), each node with one core."""
    from ray.cluster_utils import Cluster as Nodes

    cluster = Nodes()
    settings = {"num_cpus": 1, "object_store_memory": 2**27}
    nodes = [cluster.add_node(**settings, include_dashboard=False), cluster.add_node(**settings)]
    try:
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def shared_cluster(quiet):
    with two_nodes() as started:
        yield started


@pytest.fixture
def address(shared_cluster):
    """Of a cluster of two nodes that the tests share, until the last one loses a node."""
    yield shared_cluster[0].address
    ray.shutdown()


def data(name):
    generator = torch.Generator().manual_seed(int(name[1:]))
    rows = Dataset(torch.randn(40, 5, generator=generator), torch.randint(3, (40,), generator=generator))
    return SiloDataset(rows, rows, ("a", "b", "c"))


def trainer():
    return Trainer(model_spec("mlp", (5,), 0), METHODS["fedtl"](), TrainingConfig())


def make_context():
    return WorkerContext(trainer(), data)


def refused():
    raise DataError("this machine has no such file")


def dies():
    os._exit(3)


def silos():
    _, local = trainer().partition.split(trainer().initial(3))
    return [Silo(name, data(name), dict(local), name.encode()) for name in NAMES]


def task():
    shared, _ = trainer().partition.split(trainer().initial(3))
    return Task("test", 1, 1, 0, shared)


@dataclass(frozen=True)
class Noted:
    """
    Another job, which writes a file for each silo and node. It fails at the silo ``fails``. No silo is trained before
    both nodes have begun one, since an actor may take longer to start than all silos take to train.
    """

    job: Job
    notes: Path
    fails: str = ""
    victim: str = ""  # a node that does one silo and stays at the second until it is killed

    def __call__(self, trainer, silo):
        if silo.name == self.fails:
            raise SiloFailed(f"{silo.name}: it diverged")
        node = ray.get_runtime_context().get_node_id()
        (self.notes / f"{silo.name}-{node}").touch()
        while len({node for _, node in self.begun()}) < 2:
            time.sleep(0.02)
        time.sleep(600 if node == self.victim and self.at(node) > 1 else 0)
        return self.job(trainer, silo)

    def begun(self):
        """Each (silo, node that began it)."""
        return [tuple(path.name.split("-")) for path in self.notes.iterdir()]

    def first(self, node):
        """The silo that this node began first."""
        return min(self.notes.glob(f"*-{node}"), key=lambda path: path.stat().st_mtime_ns).name.split("-")[0]

    def at(self, node):
        """How many silos this node has started."""
        return len(list(self.notes.glob(f"*-{node}")))


def same(found, wanted):
    assert [name for name, _ in found] == [name for name, _ in wanted]
    for (_, update), (_, other) in zip(found, wanted, strict=True):
        assert update.metrics == other.metrics
        assert all(torch.equal(update.delta[name], other.delta[name]) for name in other.delta)


def serial():
    torch.set_num_threads(1)
    members = silos()
    return list(Serial(trainer()).each(Fit(task()), members)), members


def test_two_nodes_give_the_bits_of_serial_and_silos_stay_on_a_node(tmp_path, address):
    wanted, others = serial()
    members, notes = silos(), [tmp_path / "1", tmp_path / "2"]
    for path in notes:
        path.mkdir()
    with RayCluster(make_context, 0, 1, address, "cpu") as engine:
        assert engine.workers == 2
        first = Noted(Fit(task()), notes[0])
        same(list(engine.each(first, members)), wanted)
        again = Noted(Fit(task()), notes[1], fails="s4")
        result = dict(engine.each(again, members))
        assert isinstance(result["s4"], SiloFailed)
        before = dict(first.begun())
        assert len(nodes := set(before.values())) == 2
        # Each node begins with a silo that it had before. The others go to whichever node is idle.
        assert all(before[again.first(node)] == node for node in nodes)
    for silo, other in zip(members, others, strict=True):
        assert (silo.name == "s4") == all(torch.equal(silo.local[n], other.local[n]) for n in other.local)


def test_errors_that_end_a_run(address, monkeypatch):
    monkeypatch.setattr("fedtl.simulation.ray.MAX_STARTS", 2)  # a start takes seconds
    engine = partial(RayCluster, workers=1, threads=1, address=address, device="cpu")
    with engine(refused) as refusing, pytest.raises(DataError, match="no such file"):
        list(refusing.each(Fit(task()), silos()))
    with engine(dies) as dying, pytest.raises(FedTLError, match="died 2 times"):
        list(dying.each(Fit(task()), silos()))
    with pytest.raises(ConfigError, match="has no GPU"):
        RayCluster(make_context, 1, 1, address, "cuda").__enter__()
    ray.shutdown()
    with pytest.raises(ConfigError, match="engine.address") as caught:
        RayCluster(make_context, 1, 1, "127.0.0.1:1", "cpu").__enter__()
    assert "\n" not in str(caught.value)


def test_a_whole_run_over_two_nodes(tmp_path, address):
    small = ["rounds=2", "data.limit=40", *ROUNDS_ONLY]
    alone = load_experiment("digits", [*small, "engine.name=serial"])
    one = to_plain(run(alone, RunFolder.create(tmp_path / "one", alone)))
    spread = load_experiment("digits", [*small, "engine.name=ray", f"engine.address={address}"])
    other = to_plain(run(spread, RunFolder.create(tmp_path / "other", spread)))
    assert other.pop("workers") == 2
    assert one.pop("workers") == 1
    assert json.dumps(one | {"seconds": 0}) == json.dumps(other | {"seconds": 0})
    for path in (tmp_path / "one").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.nightly
def test_a_stopped_run_resumes_on_the_cluster_with_the_same_numbers(tmp_path, address):
    class Stop(Exception):
        pass

    def stop(one):
        raise Stop

    small = ["rounds=2", "data.limit=40", "method.name=fedrep", *ROUNDS_ONLY]
    alone = load_experiment("digits", [*small, "engine.name=serial"])
    one = to_plain(run(alone, RunFolder.create(tmp_path / "one", alone)))
    spread = load_experiment("digits", [*small, "engine.name=ray", f"engine.address={address}"])
    folder = RunFolder.create(tmp_path / "other", spread)
    with pytest.raises(Stop):
        run(spread, folder, progress=stop)
    other = to_plain(run(folder.experiment(), RunFolder.open(folder.path)))
    assert one["silos"] == other["silos"]
    assert (tmp_path / "one" / "shared.safetensors").read_bytes() == (
        folder.path / "shared.safetensors"
    ).read_bytes()


def test_a_lost_node_does_not_change_the_result(tmp_path, shared_cluster, address):
    wanted, others = serial()
    members = silos()
    cluster, nodes = shared_cluster  # the last test that uses it
    with RayCluster(make_context, 2, 1, address, "cpu") as engine:
        here = ray.get_runtime_context().get_node_id()
        (victim,) = {node["NodeID"] for node in ray.nodes()} - {here}
        job = Noted(Fit(task()), tmp_path, victim=victim)

        def kill():
            while job.at(victim) < 2:
                time.sleep(0.05)
            cluster.remove_node(nodes[1], allow_graceful=False)

        killing = threading.Thread(target=kill, daemon=True)
        killing.start()
        found = list(engine.each(job, members))
        killing.join(60)
    same(found, wanted)
    for silo, other in zip(members, others, strict=True):
        assert all(torch.equal(silo.local[name], other.local[name]) for name in other.local)
    begun = [silo for silo, _ in job.begun()]
    assert set(begun) == set(NAMES)
    # What the lost node was at is begun again, and so is what it had done, unless its result was here before.
    assert len(begun) in (len(NAMES) + 1, len(NAMES) + 2)


def test_an_adopted_folder_is_removed_by_its_last_user(tmp_path):
    folder = tmp_path / "tmp" / "fedtl-of-another-machine"
    code = f"from pathlib import Path; from fedtl.simulation.temp_folder import adopt_folder; adopt_folder(Path({str(folder)!r})); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    users = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for user in users:
        user.stdout.readline()
    assert folder.stat().st_mode & 0o777 == 0o700
    for user, left in zip(users, (True, False), strict=True):
        user.communicate("\n", timeout=30)
        assert folder.exists() is left
