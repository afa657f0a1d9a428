"""Tests of what a CUDA device computes; without one they are skipped."""

import pytest
import torch

from fedtl.simulation import stacked


@pytest.fixture(autouse=True)
def a_stack_stays_a_stack(monkeypatch):
    """A stack that fails is trained one after another, which would give the right numbers too."""

    def failing(*message):
        raise AssertionError(message) from None

    monkeypatch.setattr(stacked.log, "exception", failing)


@pytest.fixture
def device():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")
