"""Tests of the stack compute in float64."""

import pytest
import torch


@pytest.fixture(autouse=True)
def double():
    """In float64, rounding neither hides an error nor grows into one over the rounds."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
