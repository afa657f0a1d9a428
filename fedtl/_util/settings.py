"""The base class of all settings."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Strength = Weight | Literal["inf"]  # a file has "inf" as text, because JSON has no infinite number
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """A frozen pydantic model. A key that is not a field, or a value of another type, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def infinite_as_text(value: Any) -> Any:
    """Return a value with "inf" in place of each infinite number, also in lists and tables, as a ``Strength`` is written."""
    if isinstance(value, dict):
        return {key: infinite_as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [infinite_as_text(one) for one in value]
    return "inf" if isinstance(value, float) and value == math.inf else value
