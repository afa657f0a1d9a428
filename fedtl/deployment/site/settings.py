"""
``silo.toml``: what an institution has, and what it allows to leave. Everything that is not listed is denied. What each key does stands
in ``fedtl.deployment.about``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from fedtl._util.settings import Settings
from fedtl.data.plain_names import SILO_NAME
from fedtl.data.settings import RowSettings
from fedtl.deployment.site.hours import Hours
from fedtl.errors import ConfigError
from fedtl.experiment.config.settings_file import read_toml, validate

if TYPE_CHECKING:
    from fedtl.federation.policy import Policy

NAME = f"^{SILO_NAME.pattern}$"

# By table, the keys of fedtl 0.1.0 and what they are called now. The next version accepts the new names only.
RENAMED_KEYS = {
    "data": {"split": "split_seed"},
    "policy": {"bytes": "max_bytes_per_round", "norm": "max_update_norm", "rows": "share_row_count"},
}


class SiteDataSettings(RowSettings):
    """
    ``[data]``: where the rows are. A key that an experiment's ``[data]`` has too means the same here.
    """

    name: str = Field("", pattern=rf"{NAME}|^$")
    source: str = "table"
    silo: str = ""
    split_seed: int = Field(0, ge=0)
    unlabelled: bool = False

    @field_validator("source")
    @classmethod
    def _no_query(cls, value: str) -> str:
        if value == "sql":
            raise ValueError(
                "another source, because a site runs no query; export the rows as CSV or Parquet"
            )
        return value


class BudgetSettings(Settings):
    """
    ``[policy.privacy]``: every update is sent with noise. Without this table the site refuses private plans.
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
    """
    ``[policy]``: what may leave, and in which studies. What is not listed is refused.
    """

    roles: list[Literal["body", "head", "aux", "norm", "stats", "adapter", "extra", "summary"]] = []
    methods: list[str] = []
    models: list[str] = []
    metrics: list[str] = []
    max_bytes_per_round: int = Field(0, ge=0)
    max_update_norm: float = Field(1000.0, ge=0, allow_inf_nan=False)
    minimum_silos: int = Field(2, ge=1)
    share_row_count: bool = False
    wire: list[Literal["float32", "bf16", "int8", "top-k", "sign"]] = ["float32"]
    verdict: bool = False
    privacy: BudgetSettings | None = None

    @property
    def policy(self) -> "Policy":
        from fedtl.federation.policy import Policy

        return Policy(
            roles=frozenset(self.roles),
            methods=frozenset(self.methods),
            models=frozenset(self.models),
            metrics=frozenset(self.metrics),
            max_bytes_per_round=self.max_bytes_per_round,
            max_update_norm=self.max_update_norm,
            minimum_silos=self.minimum_silos,
            private=self.privacy is not None,
            share_row_count=self.share_row_count,
            wire=frozenset(self.wire),
            verdict=self.verdict,
        )


class HomeSettings(Settings):
    """
    The whole file. Paths are relative to its folder.
    """

    name: str = Field(pattern=NAME)
    server: str
    certificate: str = "ca.crt"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1)
    heartbeat: int = Field(30, ge=10, le=1800)
    port: int = Field(9094, ge=1, le=65535)
    hours: str = ""
    weights: str = ""
    public: str = ""
    model_folder: str = ""
    key_file: str = ""
    data: SiteDataSettings = SiteDataSettings()
    policy: PolicySettings = PolicySettings()
    _old_keys: str = PrivateAttr("")

    @property
    def old_keys(self) -> str:
        """A note on the keys that the file has under the names of fedtl 0.1.0; "" where it has none."""
        return self._old_keys

    @field_validator("hours")
    @classmethod
    def _hours(cls, value: str) -> str:
        if value:
            Hours.parse(value)
        return value

    @field_validator("server")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("must be HOST:PORT")
        return value


def load_home_settings(folder: Path) -> HomeSettings:
    """Return the settings in ``silo.toml``. Raises ConfigError."""
    path = folder / "silo.toml"
    if not path.exists():
        raise ConfigError(
            f"{folder} has no silo.toml; create it: fedtl silo init {folder} --name NAME --server HOST:PORT"
        )
    return settings_of_table(read_toml(path), path)


def settings_of_table(table: dict[str, Any], path: Path) -> HomeSettings:
    """Return the settings in the content of ``path``, whose old keys get their new names in ``table``. Raises ConfigError."""
    renamed = _rename_old_keys(table, path)
    settings = validate(HomeSettings, table, str(path))
    if renamed:
        settings._old_keys = (
            f"{', '.join(renamed)}; write the new names: the next version refuses the old ones"
        )
    return settings


def _rename_old_keys(table: dict[str, Any], path: Path) -> list[str]:
    """
    Give every key in ``RENAMED_KEYS`` its new name, in place, and return a text for each. Raises ConfigError where a setting
    stands under both of its names.
    """
    renamed: list[str] = []
    for section, keys in RENAMED_KEYS.items():
        values = table.get(section, {})
        for old, new in keys.items():
            if not isinstance(values, dict) or old not in values:
                continue
            if new in values:
                raise ConfigError(
                    f"{path}: {section}.{old} is the old name of {section}.{new}, and both are set; remove {section}.{old}"
                )
            values[new] = values.pop(old)
            renamed.append(f"{section}.{old} is now {section}.{new}")
    return renamed
