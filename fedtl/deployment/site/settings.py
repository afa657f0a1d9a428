"""``silo.toml``: what an institution has, and what it allows. Every key with its default; deny by default."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from fedtl._util.settings import Settings
from fedtl.data.settings import RowSettings
from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import short

if TYPE_CHECKING:
    from fedtl.federation.policy import Policy

NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$"


class DataHere(RowSettings):
    """
    ``[data]``: where the rows are. ``name``: of the dataset, on which the lifetime budget hangs; "": the one that this home
    began with (see ``Home.dataset``). ``silo``: their name in the source, "" for the site's own. ``split``: a number that
    fixes which rows are for training, for good; ``val`` and ``test`` are shares, as in an experiment. ``classes``: every
    label that can occur, for a head of the site's own; that of a shared head is in the plan. ``bounds``: of each column,
    for ``scale = "dp"``. Where one of these two is not set, the approved plan's holds.
    """

    name: str = Field("", pattern=rf"{NAME}|^$")
    source: str = "table"
    silo: str = ""
    split: int = Field(0, ge=0)


class BudgetSettings(Settings):
    """
    ``[policy.privacy]``: nothing leaves without differential privacy; without the table no private plan runs.
    ``epsilon``: the most for one study; ``lifetime_epsilon`` and ``lifetime_delta``: the most for the rows, all studies
    together, for ever. ``unit``: who is protected, a record, or, by a column's name, all rows that agree there.
    ``sample_rate``: of each in a step; ``steps``: of a round; ``rounds``: the most to take part in, in a study. Where one
    of these three is not set, the approved plan's holds.
    """

    epsilon: float = Field(gt=0, le=100, allow_inf_nan=False)
    lifetime_epsilon: float = Field(gt=0, le=1000, allow_inf_nan=False)
    delta: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)] = "auto"
    lifetime_delta: float = Field(1e-4, gt=0, lt=1)
    clip: float = Field(1.0, gt=0, allow_inf_nan=False)
    sample_rate: float | None = Field(None, gt=0, le=1)
    steps: int | None = Field(None, ge=1)
    rounds: int | None = Field(None, ge=1)
    unit: str = "record"
    statistics: Literal["dp", "public", "local-after"] = "public"


class PolicySettings(Settings):
    """``[policy]``: what may leave, in which study."""

    roles: list[Literal["body", "head", "aux", "norm", "stats", "extra", "summary"]] = []
    methods: list[str] = []
    models: list[str] = []
    metrics: list[str] = []
    bytes: int = Field(0, ge=0)
    norm: float = Field(1000.0, ge=0, allow_inf_nan=False)
    minimum_silos: int = Field(2, ge=1)
    rows: bool = False
    privacy: BudgetSettings | None = None

    @property
    def policy(self) -> "Policy":
        from fedtl.federation.policy import Policy

        return Policy(
            roles=frozenset(self.roles),
            methods=frozenset(self.methods),
            models=frozenset(self.models),
            metrics=frozenset(self.metrics),
            bytes=self.bytes,
            norm=self.norm,
            minimum_silos=self.minimum_silos,
            private=self.privacy is not None,
            rows=self.rows,
        )


class HomeSettings(Settings):
    """
    The whole file. Paths are relative to its folder. ``heartbeat``: seconds between two signs of life; after twice as
    many without one the server takes the site for gone, and lets its key in again. Flower takes 10 to 1800.
    """

    name: str = Field(pattern=NAME)
    server: str
    certificate: str = "ca.crt"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1)
    heartbeat: int = Field(30, ge=10, le=1800)
    port: int = Field(9094, ge=1, le=65535)
    weights: str = ""
    key_file: str = ""
    data: DataHere = DataHere()
    policy: PolicySettings = PolicySettings()

    @field_validator("server")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("must be HOST:PORT")
        return value


def load(folder: Path) -> HomeSettings:
    """Raises ConfigError, in one line."""
    path = folder / "silo.toml"
    try:
        return HomeSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} has no silo.toml; make it with: fedtl silo init {folder} --name NAME --server HOST:PORT"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ConfigError(f"{path}: {place} is not given, and has no default") from error
        raise ConfigError(f"{path}: {place} = {short(first['input'])}: {first['msg']}") from error
