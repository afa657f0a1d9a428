"""Which nets have CUDA graphs. What a graph computes needs a GPU: tests/gpu."""

from types import SimpleNamespace

import pytest
import torch

from fedtl.training.graphs import fits_gpu


@pytest.mark.parametrize(("rows", "fits"), [(25, True), (26, False)])
def test_the_gradients_of_a_graph_take_a_hundredth_of_the_memory_at_most(rows, fits, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=50_000)
    )
    weights = [torch.zeros(rows, 4), torch.zeros(25, dtype=torch.float32)]  # 500 bytes with 25 rows
    assert fits_gpu(weights) is fits
