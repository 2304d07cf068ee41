"""The model that all parameters and options are: frozen, no unknown keys, no silent conversions."""

import reprlib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.runtime.faults import nearest


class Strict(BaseModel):
    """Fields are options; a wrong type, a wrong range or an unknown key is an error, never a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def unsaid(default: Any) -> Any:
    """A field that no record mentions where it has its default: records from before it came stay what they are."""
    return Field(default, exclude_if=lambda value: value == default)


def foremost(error: ValidationError) -> Any:
    """The complaint to begin with: an unknown key often explains why another is missing."""
    complaints = error.errors(include_url=False)
    return next((c for c in complaints if c["type"] == "extra_forbidden"), complaints[0])


def explain(error: ValidationError, cls: type[Strict]) -> str:
    """One complaint of pydantic in one line, with the known keys where a key is unknown."""
    first = foremost(error)
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{path}'. {nearest(str(first['loc'][-1]), cls.model_fields)}"
    if first["type"] == "missing":
        return f"'{path}' is missing."
    if not path:  # options that do not go together
        return f"{first['msg'].removeprefix('Value error, ')}."
    return f"{path}: {first['msg']}, found {reprlib.repr(first['input'])}."
