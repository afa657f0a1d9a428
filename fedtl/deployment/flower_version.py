"""The one version of Flower whose internals some files here rely on, and the check that this version is installed."""

import inspect
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from fedtl.errors import ConfigError, FedTLError

FLOWER_VERSION = "1.42.0"


def check_flower(module: ModuleType, known_hash: str) -> None:
    """``known_hash``: the SHA-256 of the module's file. Raises ConfigError for another version of flwr."""
    digest = sha256(Path(inspect.getfile(module)).read_bytes()).hexdigest()
    if version("flwr") != FLOWER_VERSION or digest != known_hash:
        raise ConfigError(
            f"flwr {version('flwr')} is installed, and this fedtl works with flwr {FLOWER_VERSION} only: "
            f"pip install --force-reinstall flwr=={FLOWER_VERSION}"
        )


def run_main(main: Callable[[], None]) -> None:
    """Run a process of fedtl's in place of one of Flower's: its files are private to the owner, and an error is one line and an exit code."""
    os.umask(0o077)
    try:
        main()
    except FedTLError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
