"""Which nets have CUDA graphs. What a graph computes needs a GPU: tests/gpu."""

from types import SimpleNamespace

import pytest
import torch

from fedtl.training.graphs import fits_gpu


@pytest.mark.parametrize(
    ("rows", "used", "fits"), [(25, 12_500, True), (26, 12_500, False), (25, 12_501, False)]
)
def test_a_graph_takes_little_memory_of_a_gpu_that_has_room(rows, used, fits, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=50_000)
    )
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: used)
    weights = [torch.zeros(rows, 4), torch.zeros(25, dtype=torch.float32)]  # 500 bytes with 25 rows
    assert fits_gpu(weights) is fits
