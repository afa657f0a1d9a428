"""fedtl between real processes, as the tests of a deployment start them, and the simulation of the same experiment."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from deploy_load import DeployLoad, SiteFailed
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from memory import PeakOf

from fedtl._util.randomness import address
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.real_processes import Federation

SECONDS = 3600.0  # that a study may take
POLICY: Mapping[str, Any] = {
    "policy__roles": ["body", "aux", "norm", "head", "stats"],
    "policy__methods": ["fedavg"],
    "policy__minimum_silos": 1,
    "policy__max_bytes_per_round": 100_000_000,
    "policy__max_update_norm": 1e6,
}


def experiment(load: DeployLoad, rounds: int, rows: Path) -> Experiment:
    settings = {
        "rounds": rounds,
        "minimum_silos": load.sites,
        "method.name": "fedavg",
        "model.name": load.model,
        "data.source": "npz",
        "data.path": str(rows),
        "train.batch_size": load.batch,
        "train.lr": load.lr,
        "updates.max_norm": 1e6,
        "method.tune.epochs": 0,
        "method.choose.candidates": ["tuned"],
        "engine.name": "serial",
    }
    return load_experiment("digits", [f"{key}={value}" for key, value in settings.items()])


def measure(load: DeployLoad, rounds: int, work: Path) -> tuple[list[float], dict[str, float], bool]:
    """Return the seconds of each round, the coordinator's memory, and whether the shared tensors are those of a simulation."""
    settings = experiment(load, rounds, work / "rows")
    federation = Federation(work / "federation")
    try:
        for name in load.names():
            home = federation.add(
                name,
                data__source="npz",
                data__path=str(work / "rows"),
                policy__models=[load.model],
                **POLICY,
            )
            (home.path / "secret").write_bytes(address("secret", settings.seed, name).to_bytes(8, "big"))
        federation.approve(federation.bundle(settings, "bench"), *load.names())
        federation.up(*load.names(), OMP_NUM_THREADS="1")
        with PeakOf(federation.processes["server"].pid, ("flwr-serverapp", "bounded_superlink")) as peak:
            federation.start("bench", "bench")
            result = federation.result("bench", SECONDS)
        if any(count != rounds for count in result["silos"].values()) or result["left_out"]:
            raise SiteFailed(f"left out: {result['left_out']}")
        seconds = [line["seconds"] for line in federation.history("bench")]
        theirs = load_file(federation.server / "studies" / "bench" / "shared.safetensors")
    except AssertionError as error:
        raise SiteFailed(f"{error}\n{federation.last_words()}") from error
    finally:
        federation.close()
    return seconds, peak.mib, _same(theirs, settings, work / "run")


def finished(work: Path) -> list[float]:
    """Return the seconds of the rounds that were finished in ``work``, also where the measurement was ended."""
    history = work / "federation" / "server" / "studies" / "bench" / "history.jsonl"
    lines = history.read_text().splitlines() if history.is_file() else []
    return [json.loads(line)["seconds"] for line in lines]


def _same(theirs: Mapping[str, torch.Tensor], settings: Experiment, folder: Path) -> bool:
    simulation = RunFolder.create(folder, settings)
    run(settings, simulation)
    ours = simulation.tensors("shared.safetensors")
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
