"""
``server.toml``: where the coordinator listens, and how long it waits for a round. What each key does stands in ``fedtl.deployment.about``.
"""

from pathlib import Path

from pydantic import Field

from fedtl._util.settings import Settings
from fedtl.errors import ConfigError
from fedtl.experiment.config.settings_file import read_toml, validate

TEMPLATE = """\
# The coordinator's own settings. Everything about a study is in its experiment.

host = {host}            # the host name that sites use to reach the gate; it is in the certificate
listen = {listen}        # the address of the gate; "0.0.0.0:8443" accepts connections from other machines
port = {port}                    # the SuperLink's, on 127.0.0.1; never make it reachable from other machines
deadline = 3600.0              # seconds that a round may take; later replies are ignored
grace = 120.0                  # seconds that a round waits for the sites of the round before it that are not connected
tries = 3                      # attempts at a round that gets fewer valid replies than minimum_silos
ask_again = 900.0              # seconds until sites are asked again that are outside their hours, or have not said if joining helped
verdict_days = 7.0             # for how many days after a study its sites are asked whether joining helped, where the plan asks
on_stopped = []                # command that runs when a study stops, such as ["/usr/local/bin/alert"]; it gets FEDTL_STUDY and FEDTL_REASON
"""


class ServerSettings(Settings):
    """The whole file."""

    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]+$")
    listen: str = Field("127.0.0.1:8443", pattern=r"^[0-9A-Za-z.\[\]:-]+:[0-9]{1,5}$")
    port: int = Field(8000, ge=1, le=65535)
    deadline: float = Field(3600.0, ge=5, le=43200)
    grace: float = Field(120.0, ge=0, le=43200)
    tries: int = Field(3, ge=1, le=100)
    ask_again: float = Field(900.0, ge=1, le=86400)
    verdict_days: float = Field(7.0, gt=0, le=365)
    on_stopped: list[str] = Field([], max_length=100)


def load_server_settings(folder: Path) -> ServerSettings:
    """Return the settings in ``server.toml``. Raises ConfigError."""
    path = folder / "server.toml"
    if not path.exists():
        raise ConfigError(f"{folder} has no server.toml; create it: fedtl server init {folder} --host NAME")
    return validate(ServerSettings, read_toml(path), str(path))
