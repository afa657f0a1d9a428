"""A site that approved a bundle."""

import pytest

from tests.deployment.site.sites import Site


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)
