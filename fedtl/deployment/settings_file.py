"""Reads a TOML file into settings. Every mistake is a ConfigError of one line that names the file and the key."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fedtl._util.settings import Settings
from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import shorten

S = TypeVar("S", bound=Settings)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises ConfigError where it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def validate(model: type[S], table: Mapping[str, Any], source: str) -> S:
    """Return the settings in ``table``. Raises ConfigError for the first mistake; ``source``: what the message calls the table."""
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        key, value = ".".join(map(str, mistake["loc"])), shorten(mistake["input"])
        match mistake["type"]:
            case "missing":
                problem = f"{key} is required and is not set"
            case "extra_forbidden":
                problem = f"{key} = {value}: there is no such setting; remove it or correct its name"
            case _:
                problem = f"{key} = {value}: {mistake['msg'].removeprefix('Value error, ')}"
        raise ConfigError(f"{source}: {problem}") from error
