"""``server.toml``: where the coordinator listens, and how patient it is."""

import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from fedtl._util.settings import Settings
from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import shorten

TEMPLATE = """\
# The coordinator's own settings. Everything else is in the experiment.

host = {host}            # the name that institutions reach the gate by; the certificate bears it
listen = {listen}        # where the gate listens; "0.0.0.0:8443" opens it to other machines
port = {port}                    # of the SuperLink, on 127.0.0.1: never to be opened
deadline = 3600.0              # seconds that a round may take; later replies are dead
tries = 3                      # how often a round is asked that has too few valid replies
"""


class ServerSettings(Settings):
    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]+$")
    listen: str = Field("127.0.0.1:8443", pattern=r"^[0-9A-Za-z.\[\]:-]+:[0-9]{1,5}$")
    port: int = Field(8000, ge=1, le=65535)
    deadline: float = Field(3600.0, ge=5, le=43200)
    tries: int = Field(3, ge=1, le=100)


def load(folder: Path) -> ServerSettings:
    """Raises ConfigError, in one line."""
    path = folder / "server.toml"
    try:
        return ServerSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} has no server.toml; make it with: fedtl server init {folder} --host NAME"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {place} = {shorten(first['input'])}: {first['msg']}") from error
