"""Read a TOML file into settings. Every mistake is a ConfigError of one line with the file, the key and the value."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fedtl._util.settings import Settings
from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import mistakes_in_one_line

S = TypeVar("S", bound=Settings)
Table = dict[str, Any]  # of a TOML file: what its keys mean is checked later


def read_toml(path: Path) -> Table:
    """Return the tables of a TOML file. Raises ConfigError where it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and lists in lists
        raise ConfigError(f"{path} is not TOML: {error}") from error


def validate(model: type[S], table: Mapping[str, Any], source: str = "") -> S:
    """Return the settings in ``table``. Raises ConfigError. ``source``: the name of the file, for the message."""
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        line = mistakes_in_one_line(error, table, model=model)
        raise ConfigError(f"{source}: {line}" if source else line) from error
