"""
Institutions as real processes: TLS, node keys, the gate, and the same Bench. Every verdict is read from result files
and records, not from what Flower says about its runs.
"""

import pytest
import torch
from federation import Federation
from safetensors.torch import load_file

from fedtl.experiment.file import load
from fedtl.randomness import address
from fedtl.runfolder import RunFolder
from fedtl.study import run

pytestmark = pytest.mark.slow
SITES = ["plain", "inverted", "blurred"]
SMALL = ["rounds=2", "minimum_silos=3", 'data.silos=["plain","inverted","blurred"]', "engine.name=serial"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Three sites with the simulation's secrets and rows, connected through the gate."""
    its = Federation(tmp_path_factory.mktemp("federation"))
    try:
        for name in SITES:
            home = its.add(name, data__limit=load("digits").data.limit)
            (home.path / "secret").write_bytes(address("secret", 0, name).to_bytes(8, "big"))
        its.approve(its.bundle(load("digits", SMALL)), *SITES)
        its.up(*SITES)
        yield its
    finally:
        its.close()


def test_three_sites_give_the_simulations_bits(federation, tmp_path):
    federation.start("digits", "first")
    result = federation.result("first")
    assert result["silos"] == dict.fromkeys(SITES, 2)
    folder = RunFolder.create(tmp_path / "run", load("digits", SMALL))
    run(folder.experiment(), folder)
    theirs = load_file(federation.server / "studies/first/shared.safetensors")
    ours = folder.tensors("shared.safetensors")
    assert theirs.keys() == ours.keys()
    for name in ours:
        assert torch.equal(theirs[name], ours[name]), name
    assert [
        {name: its["accuracy"] for name, its in line["silos"].items()} for line in federation.history("first")
    ] == [{name: its["accuracy"] for name, its in line["silos"].items()} for line in folder.history()]
