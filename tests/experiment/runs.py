"""Small runs of the digits, and what they wrote."""

import torch
from safetensors.torch import load_file

from fedtl._util.records import to_plain
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from tests.experiments import ROUNDS_ONLY

SMALL = ["rounds=2", "data.limit=40", "engine.name=serial", *ROUNDS_ONLY]
ENGINES = {
    "serial": ["engine.name=serial"],
    "processes": ["engine.name=processes", "engine.workers=3"],
    "stacked": ["engine.name=serial", "engine.stack=3"],
}


def small(*overrides):
    settings = {override.partition("=")[0]: override for override in (*SMALL, *overrides)}
    return load_experiment("digits", list(settings.values()))


def do(path, experiment):
    return to_plain(run(experiment, RunFolder.create(path, experiment)))


def own_validation(path, silo):
    return RunFolder(path).read_json(f"silos/{silo}/validation.json")


def numbers(result):
    return {key: value for key, value in result.items() if key not in ("seconds", "workers")}


def tensors(path):
    return {str(file.relative_to(path)): load_file(file) for file in sorted(path.rglob("*.safetensors"))}


def same(a, b):
    return a.keys() == b.keys() and all(
        a[f].keys() == b[f].keys() and all(torch.equal(a[f][n], b[f][n]) for n in a[f]) for f in a
    )
