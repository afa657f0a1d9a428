"""Read a TOML file into settings. Every mistake is a ConfigError of one line with the file, the key and the value."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fedtl._util.settings import Settings
from fedtl._util.toml_text import Table, parse_toml
from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import mistakes_in_one_line

S = TypeVar("S", bound=Settings)


def read_toml(path: Path) -> Table:
    """Return the tables of a TOML file. Raises ConfigError where it cannot be read or is not TOML."""
    try:
        return parse_toml(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def validate(model: type[S], table: Mapping[str, Any], source: str = "") -> S:
    """Return the settings in ``table``. Raises ConfigError. ``source``: the name of the file, for the message."""
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        line = mistakes_in_one_line(error, table, model=model)
        raise ConfigError(f"{source}: {line}" if source else line) from error
