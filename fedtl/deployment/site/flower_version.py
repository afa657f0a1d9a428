"""The one version of Flower whose inside some files here rely on, and the check that it is that one."""

import inspect
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from fedtl.errors import ConfigError, FedTLError

VERSION = "1.41.0"


def check(module: ModuleType, known: str) -> None:
    """``known``: SHA-256 of the module's file, in hex. Raises ConfigError for another flwr."""
    found = sha256(Path(inspect.getfile(module)).read_bytes()).hexdigest()
    if version("flwr") != VERSION or found != known:
        raise ConfigError(
            f"flwr {version('flwr')} is not the {VERSION} that the launcher knows: pip install flwr=={VERSION}"
        )


def begin(main: Callable[[], None]) -> None:
    os.umask(0o077)
    try:
        main()
    except FedTLError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
