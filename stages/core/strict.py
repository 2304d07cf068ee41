"""The model that all parameters and options are: frozen, no unknown keys, no silent conversions."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Fields are options; a wrong type, a wrong range or an unknown key is an error, never a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
