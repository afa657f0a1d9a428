"""The ``[data]`` table."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from fedtl._util.settings import Settings

SCALES = ("silo", "none", "dp")  # any other data.scale is a file of constants


def printable(text: str) -> str:
    """Text of one line that shows as it is written: an institution reads it on the page that it signs."""
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


Name = Annotated[str, AfterValidator(printable)]


class DataSettings(Settings):
    """
    DESIGN's ``[data]``: every key with its default. ``path`` is absolute once an experiment is loaded.

    ``classes``: every label that can occur, declared. ``scale``: "silo" (learned from the silo's training rows), "none", a
    TOML file of constants, or, under ``[privacy]``, "dp": mean and spread are released with noise, and ``bounds`` says for
    each column, or channel by number, ``[low, high]`` or ``[low, high, fill]``; "*" stands for all others. ``by_record``:
    each row is read, split and prepared without a look at any other row; always so under ``[privacy]``.
    """

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
    columns: list[Name] = []
    categories: dict[Name, list[Name]] = {}
    classes: list[Name] = []
    scale: str = "silo"
    bounds: dict[str, list[Annotated[float, Field(allow_inf_nan=False)]]] = {}
    by_record: bool = False
    silo_column: str = ""
    unit_column: str = ""
    domain_column: str = ""
    target_domain: str = ""

    @field_validator("channels", mode="before")
    @classmethod
    def _exactly(cls, value: Any) -> Any:
        """To Python, and so to a Literal, 1.0 and true are 1."""
        return repr(value) if isinstance(value, bool | float) else value
