"""Packs the folder of an app into a file as ``flwr build`` does, in this process: starting Flower's command takes a second."""

import warnings
from pathlib import Path

from fedtl.errors import ConfigError


def pack_app(app: Path) -> bytes:
    """Return the content of the .fab file of the folder ``app``. Raises ConfigError."""
    try:
        from flwr.cli.build import build_fab_from_disk
        from flwr.cli.config_utils import load_and_validate
    except ImportError as error:
        raise ConfigError('flwr is not installed: pip install "fedtl[flower]"') from error
    try:
        # Looking for the app's modules would import packages by their names, which another app in this process may have too.
        load_and_validate(app / "pyproject.toml", check_module=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Flower uses an old name of pathspec's
            return build_fab_from_disk(app)
    except ValueError as error:
        raise ConfigError(f"Flower cannot build a bundle: {' '.join(str(error).split())[:300]}") from error
