"""The one version of Flower whose inside some files here rely on, and the check that it is that one."""

import inspect
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from fedtl.errors import ConfigError

VERSION = "1.41.0"


def check(module: ModuleType, known: str) -> None:
    """``known``: SHA-256 of the module's file, in hex. Raises ConfigError for another flwr."""
    found = sha256(Path(inspect.getfile(module)).read_bytes()).hexdigest()
    if version("flwr") != VERSION or found != known:
        raise ConfigError(
            f"flwr {version('flwr')} is not the {VERSION} that the launcher knows: pip install flwr=={VERSION}"
        )
