"""The base class of all settings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen pydantic model. A key that is not a field, or a value of another type, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
