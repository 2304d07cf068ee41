"""The model that all parameters and options are: frozen, no unknown keys, no silent conversions."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Fields are options; a wrong type, a wrong range or an unknown key is an error, never a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def unsaid(default: Any) -> Any:
    """A field that no record mentions where it has its default: records from before it came stay what they are."""
    return Field(default, exclude_if=lambda value: value == default)
