"""The ``[data]`` table."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fedtl.settings import Settings


class DataSettings(Settings):
    """DESIGN's ``[data]``: every key with its default. ``path`` is absolute once an experiment is loaded."""

    source: str = "digits"
    path: str = ""
    silos: list[str] = []
    size: Literal["native"] | Annotated[int, Field(ge=1, le=4096)] = "native"
    channels: Literal["native", 1, 3] = "native"
    task: Literal["classification", "regression"] = "classification"
    val: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.2, ge=0, lt=1)
    limit: int = Field(0, ge=0)
    late: list[str] = []
    shots: int = Field(20, ge=1)
    label: str = "label"
    positive_above: float | None = Field(None, allow_inf_nan=False)
    columns: list[str] = []
    categories: dict[str, list[str]] = {}
    scale: str = "silo"
    silo_column: str = ""
    unit_column: str = ""
    domain_column: str = ""
    target_domain: str = ""

    @field_validator("channels", mode="before")
    @classmethod
    def _exactly(cls, value: Any) -> Any:
        """To Python, and so to a Literal, 1.0 and true are 1."""
        return repr(value) if isinstance(value, bool | float) else value
