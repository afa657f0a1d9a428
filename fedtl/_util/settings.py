"""The base class of all settings."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """A frozen pydantic model. A key that is not a field, or a value of another type, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
