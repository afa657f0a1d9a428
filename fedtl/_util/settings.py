"""What every table of an experiment has in common: unknown keys are refused, nothing is coerced, nothing changes."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen; a key that is not a field, or a value of another type, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
