"""The base of every config section, and the number types they share. Must not: import torch or name any section."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_UNITS = (86400.0, 3600.0, 60.0, 1.0)


def _seconds(value: Any) -> Any:
    """Return the seconds of a duration like `90s` or `1h30m`; a number is one already."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if not value or match is None:
        raise ValueError("a duration is due: a number of seconds, or like 90s, 30m, 1h30m, 2d")
    return sum(float(number) * unit for number, unit in zip(match.groups(), _UNITS, strict=True) if number)


Duration = Annotated[
    float,
    Field(gt=0),
    BeforeValidator(_seconds),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}),
]
"""Seconds, written as a number or like `90s`, `30m`, `1h30m`."""


class Section(BaseModel):
    """Base of every config section: frozen, strict types, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )
