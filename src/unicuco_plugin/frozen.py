"""The base of every record that is read from outside: known fields alone, finite numbers, never changed."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Frozen"]


class Frozen(BaseModel):
    """Refuses unknown fields and numbers that are not finite, which JSON has not; stays as it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
