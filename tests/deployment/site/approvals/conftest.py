"""A private and an open site that approved one study."""

import pytest

from tests.deployment.site.approvals.approved import SHUT, THREE, copied
from tests.deployment.site.sites import Site


@pytest.fixture(scope="module")
def approved(tmp_path_factory):
    """A private site and an open one, each with an approval for one study. Tests copy them."""
    folder = tmp_path_factory.mktemp("approved")
    for name in ("private", "open"):
        (folder / name).mkdir()
    private = Site(folder / "private", dp_ready=True, policy__privacy=THREE, **SHUT)
    return {"private": private, "open": Site(folder / "open", dp_ready=True)}


@pytest.fixture
def site(approved, tmp_path):
    return copied(approved["private"], tmp_path)


@pytest.fixture
def bare(approved, tmp_path):
    """Approved without differential privacy, with accuracy and the number of rows."""
    return copied(approved["open"], tmp_path)
