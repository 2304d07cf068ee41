"""The base class of all parameters and options: frozen, no unknown keys, no silent conversions."""

import reprlib
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stages.runtime.faults import nearest

# Safe as a part of paths and of DVC stage names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)]
StudyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Position = Annotated[str, StringConstraints(pattern=r"^\d\d$")]
Seed = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # as tables store it
Values = TypeVar("Values", bound=Sequence[Any])


class Strict(BaseModel):
    """Fields are options. A wrong type, a value out of range or an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def omit_default(default: Any, **limits: Any) -> Any:
    """Declares a field that is omitted from records at its default, so that records older than the field stay valid."""
    return Field(default, exclude_if=lambda value: value == default, **limits)


def distinct(values: Values) -> Values:
    """Refuses a list in which something stands twice."""
    if twice := [value for number, value in enumerate(values) if value in values[:number]]:
        raise ValueError(f"must not list {twice[0]} twice")
    return values


def first_error(error: ValidationError) -> Any:
    """Returns the error to report: an unknown key if there is one, since it often explains a missing key."""
    errors = error.errors(include_url=False)
    return next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])


def explain(error: ValidationError, cls: type[Strict]) -> str:
    """Returns one pydantic error in one line, with the known keys of `cls` if a key is unknown."""
    first = first_error(error)
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{path}'. {nearest(str(first['loc'][-1]), cls.model_fields)}"
    if first["type"] == "missing":
        return f"'{path}' is missing."
    reason = first["msg"].removeprefix("Value error, ")
    if not path:  # options that contradict each other
        return f"{reason}."
    return f"{path}: {reason}, found {reprlib.repr(first['input'])}."
