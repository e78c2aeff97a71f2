"""Building blocks of every API kind: the base model, decimals, URIs and list markers.

As in Kubernetes, fields are camelCase on the wire and unknown fields are refused. Decimals are
strings, because floats do not round-trip through every client. A whole number may replace a decimal
string.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from finetune_api.patterns import (
    CPU_RULE,
    DURATION_RULE,
    QUANTITY_RULE,
    RESERVED_NAME_RULE,
    SOURCE_RULES,
    TIME_RULE,
    URI_RULES,
    Texts,
)

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
APPROVAL_KIND = "FineTuneApproval"
APPROVAL_PLURAL = "finetuneapprovals"
SWEEP_KIND = "FineTuneSweep"
SWEEP_PLURAL = "finetunesweeps"
ENDPOINT_KIND = "FineTuneEndpoint"
ENDPOINT_PLURAL = "finetuneendpoints"
SCHEDULE_KIND = "FineTuneSchedule"
SCHEDULE_PLURAL = "finetuneschedules"

DECIMAL_PATTERN = r"^[0-9]+(\.[0-9]+)?([eE]-?[0-9]{1,2})?$"
SIGNED_PATTERN = r"^-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]{1,2})?$"
MAX_DECIMAL_LENGTH = 16
MAX_WHOLE = 10 ** (MAX_DECIMAL_LENGTH - 1) - 1
"""Largest whole number of a decimal: with a sign it is as long as a text may be."""
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

ATOMIC_LIST: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
SET_LIST: dict[str, Any] = {"x-kubernetes-list-type": "set"}
MAP_BY_NAME: dict[str, Any] = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
}
PROSE = "x-prose"
"""Marks a text of a status that is written for people: one that is too long is cut. Any other text
is a name, an address or a number. Half of it would be wrong, so it is left out instead. No keyword
of a CRD."""
MAP_BY_TYPE: dict[str, Any] = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
}


MAX_ENTRIES = 1024
"""No map of any kind has more, whatever its own bound."""


class APIModel(BaseModel):
    """Base of all API objects: camelCase on the wire, immutable, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="strings",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_as_json(cls, value: Any) -> Any:
        # As in the API server: null stands for "not given" in any known field, and 16.0 is an
        # integer, because JSON has one kind of number.
        if not isinstance(value, dict):
            return value
        for key, item in value.items():
            # Refuse a map that is too large before each of its entries is judged.
            if isinstance(item, dict) and len(item) > MAX_ENTRIES:
                raise ValueError(f"{key} has {len(item)} entries, more than {MAX_ENTRIES}")
        absent = {key for key, item in value.items() if item is None}
        if absent:
            absent &= {field.alias for field in cls.model_fields.values()}
        return {
            key: int(item) if isinstance(item, float) and item.is_integer() else item
            for key, item in value.items()
            if key not in absent
        }

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON-ready dict with wire names and without unset optionals."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def decimal_of(value: str) -> Decimal:
    """Parse an API decimal string.

    Raises:
        ValueError: The text is not a plain decimal; the message names it and shows a valid one.
    """
    try:
        number = Decimal(value)
    except InvalidOperation as error:
        raise ValueError(f"{value!r} is not a decimal number; write for example '0.05'") from error
    if not number.is_finite():
        raise ValueError(f"{value!r} is not a finite decimal number; write for example '0.05'")
    return number


_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}


def seconds_of(duration: str) -> int:
    """Return the seconds of a ``Duration``."""
    return int(duration[:-1]) * _UNIT_SECONDS[duration[-1]]


def _check_time(value: str) -> str:
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a date: {error}") from error
    return value


def _as_decimal_text(value: object) -> object:
    # As in the API server, which takes a whole number or text and refuses a float; the message adds
    # the remedy.
    if isinstance(value, float):
        raise ValueError(
            f"{value!r} is a number that is not whole; decimals are strings here: write '{value}' "
            "in quotes"
        )
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if abs(value) > MAX_WHOLE:
        raise ValueError(f"{value!r} must have at most {MAX_DECIMAL_LENGTH - 1} digits")
    return str(value)


def _refuse_minus(value: str) -> None:
    if re.fullmatch(SIGNED_PATTERN, value) and value.startswith("-"):
        raise ValueError(f"{value!r} must not be negative; write for example '0.05' or '1e-4'")


def _check_decimal(value: str) -> str:
    _refuse_minus(value)
    if not re.fullmatch(DECIMAL_PATTERN, value):
        raise ValueError(f"{value!r} is not a decimal number; write for example '0.05' or '1e-4'")
    return value


def _check_signed(value: str) -> str:
    if not re.fullmatch(SIGNED_PATTERN, value):
        raise ValueError(f"{value!r} is not a decimal number; write for example '0.05' or '-0.02'")
    return value


def _check_auto_decimal(value: str) -> str:
    if value == "auto":
        return value
    _refuse_minus(value)
    if not re.fullmatch(DECIMAL_PATTERN, value):
        raise ValueError(
            f"{value!r} is neither 'auto' nor a decimal number such as '0.0002' or '2e-4'"
        )
    return value


def _refuse_duplicates(values: list[Any]) -> list[Any]:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ValueError(f"duplicate value: {value!r} is listed twice")
    return values


def _refuse_duplicate_names(values: list[Any]) -> list[Any]:
    _refuse_duplicates([value.name for value in values])
    return values


Unique = AfterValidator(_refuse_duplicates)
"""Marks a list of kind ``set``; the API server refuses duplicates in it."""

UniqueNames = AfterValidator(_refuse_duplicate_names)
"""Marks a list of kind ``map`` keyed by ``name``; the API server refuses duplicates in it."""


Integer = Annotated[int, Strict()]
"""A whole number; text and booleans are refused, as by the API server."""


def _decimal_schema(pattern: str, *, least: int = 0) -> WithJsonSchema:
    """Return the schema of a decimal: text of a pattern, or a whole number from ``least`` on."""
    rule = f"type(self) == string || (self >= {least} && self <= {MAX_WHOLE})"
    message = f"must be a decimal in quotes, or a whole number from {least} to {MAX_WHOLE}"
    return WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "pattern": pattern,
            "maxLength": MAX_DECIMAL_LENGTH,
            "x-kubernetes-validations": [{"rule": rule, "message": message}],
        }
    )


DecimalString = Annotated[
    str,
    BeforeValidator(_as_decimal_text),
    AfterValidator(_check_decimal),
    Field(max_length=MAX_DECIMAL_LENGTH),
    _decimal_schema(DECIMAL_PATTERN),
]
"""A non-negative decimal as text, for example ``"0.05"``; a whole number is taken as its text."""

SignedDecimal = Annotated[
    str,
    BeforeValidator(_as_decimal_text),
    AfterValidator(_check_signed),
    Field(max_length=MAX_DECIMAL_LENGTH),
    _decimal_schema(SIGNED_PATTERN, least=-MAX_WHOLE),
]
"""A decimal as text that may be negative, for example ``"-0.02"``."""

AutoDecimal = Annotated[
    str,
    BeforeValidator(_as_decimal_text),
    AfterValidator(_check_auto_decimal),
    Field(max_length=MAX_DECIMAL_LENGTH),
    _decimal_schema("^auto$|" + DECIMAL_PATTERN),
]
"""A decimal as text, or ``auto``."""

URI = Annotated[str, Field(max_length=1024), Texts(*URI_RULES)]
"""Where something lies: ``hf://``, ``s3://``, ``pvc://`` or ``file://``."""

SourceURI = Annotated[str, Field(max_length=1024), Texts(*SOURCE_RULES)]
"""Where examples lie: as ``URI``, or ``traffic://`` and the name of a FineTuneEndpoint."""

Time = Annotated[
    str,
    Field(max_length=20),
    Texts(TIME_RULE),
    AfterValidator(_check_time),
]
"""A moment in UTC, such as ``2026-01-01T00:00:00Z``."""

Duration = Annotated[str, Field(max_length=8), Texts(DURATION_RULE)]
"""A span of time, such as ``24h``. :func:`seconds_of` reads it."""

Quantity = Annotated[str, Field(max_length=16), Texts(QUANTITY_RULE)]
"""A size such as ``500Mi`` or ``16Gi``."""

CpuQuantity = Annotated[str, Field(max_length=16), Texts(CPU_RULE)]
"""A number of CPUs such as ``4``, ``2.5`` or ``500m``: a size like ``16Gi`` is a slip here."""


class LocalObjectReference(APIModel):
    """A reference to an object in the same namespace."""

    name: Annotated[
        str, Field(min_length=1, max_length=253), Texts(RESERVED_NAME_RULE, only_new=True)
    ]
    """Name of the object."""


def whole_bytes(quantity: str) -> int:
    """Return a size quantity in bytes, rounded down."""
    number = quantity.rstrip("kKMGTi")
    unit = quantity[len(number) :]
    base = 1024 if unit.endswith("i") else 1000
    return int(Decimal(number) * base ** " KMGT".index((unit[:1] or " ").upper()))
