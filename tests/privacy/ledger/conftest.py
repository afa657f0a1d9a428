"""A new ledger."""

import pytest

from tests.privacy.ledger.ledgers import opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    return opened(path)
