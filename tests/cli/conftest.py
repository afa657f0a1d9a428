"""A finished run that the tests of commands share."""

import pytest

from tests.cli.runs import SMALL
from tests.commands import fedtl


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    done = fedtl("run", "digits", *SMALL, "--out", path)
    assert done.returncode == 0, done.stderr
    return path, done
