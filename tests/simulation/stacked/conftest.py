"""Tests of the stack compute in float64."""

import pytest

from tests.simulation.stacked.stacks import in_float64


@pytest.fixture(autouse=True)
def double():
    with in_float64():
        yield
