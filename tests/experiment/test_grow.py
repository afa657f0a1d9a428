"""A run continues with a wider model that begins where the narrow one stopped."""

import pytest
import torch

from fedtl.errors import ConfigError
from fedtl.experiment.grow import grow
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.privacy.taint_metadata import read_labels
from fedtl.simulation.shared_store import temporary_store
from tests.experiment.runs import small

BASE = ("method.name=fedavg", "data.silos=['plain','faint']", "rounds=1")
NARROW = (*BASE, "model.settings.widths=[8,8,8]")


@pytest.mark.slow
def test_the_next_run_starts_with_what_the_wider_net_computes(tmp_path):
    folder = RunFolder.create(tmp_path / "run", small(*NARROW))
    run(folder.experiment(), folder)
    file = tmp_path / "wider.safetensors"
    line = grow(folder, {"widths": [8, 20, 12]}, file)
    assert "shared tensors" in line
    assert read_labels(file) == folder.labels("shared.safetensors")
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = []
    starts = {
        folder.path / "shared.safetensors": NARROW,
        file: (*BASE, "model.settings.widths=[8,20,12]"),
    }
    for weights, sets in starts.items():
        with temporary_store() as store, torch.no_grad():
            trainer = build(small(*sets, f"model.weights={weights}"), store, store).trainer
            net = trainer.net(10)
            net.load_state_dict(trainer.initial(10))
            scores.append(net.eval()(x))
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="exists"):
        grow(folder, {"widths": [8, 20, 12]}, file)
    with pytest.raises(ConfigError, match="wdths"):
        grow(folder, {"wdths": [8, 20, 12]}, tmp_path / "other")
    with pytest.raises(ConfigError, match="--set"):
        grow(folder, {}, tmp_path / "other")
    assert not (tmp_path / "other").exists()
