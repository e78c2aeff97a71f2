"""Fits a status to its schema, so that the API server does not refuse it.

The API server refuses a status that breaks its schema at every try. The schema comes from the
pydantic models that also make the CRD. Texts are cut, numbers are clamped, lists keep the important
items, and other invalid values are left out. Empty values are left out too: the API server refuses
an empty object or list that was not empty before (structured-merge-diff, ``removingWalker``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NewType

from pydantic import BaseModel

from finetune_api.meta import PROSE
from finetune_api.schema.sizes import longest_key
from finetune_api.schema.structural import Schema, status_schema_of
from finetune_operator.status.conditions import shorten

FittedStatus = NewType("FittedStatus", dict[str, Any])
"""A status that fits its schema. Only :meth:`StatusSchema.fit` makes one."""

OTHER = "other"
"""Section of a field that no section of the status holds."""
_MAX_CUTS_REPORTED = 4
_MAX_CHARACTERS_REPORTED = 60
VALIDATIONS = "x-kubernetes-validations"
_INT64 = (-(2**63), 2**63 - 1)
_KNOWN_KEYWORDS = frozenset(
    {
        *("description", "type", "format", "enum", "maxLength", "minimum", "maximum", PROSE),
        *("required", "properties", "additionalProperties", "maxProperties", "items", "maxItems"),
        *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    }
)
_DATE_TIME = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?"
    r"(Z|[-+]([01]\d|2[0-3]):[0-5]\d)"
)
"""RFC 3339, as `format: date-time` of a CRD asks for it."""
_IN_TIME_ORDER = frozenset({"time", "step"})
"""Lists whose items must have one of these are in the order of time: the newest items are kept."""

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut of a status.

    Attributes:
        field: The field, such as ``dataset.uri``.
    """

    field: str
    what: str


class _LeftOut:
    """Stands for a value that cannot be mended."""


_LEFT_OUT = _LeftOut()


class StatusSchema:
    """The schema of the status of one kind.

    Args:
        model: The model behind the CRD's schema of the status. It is read at the first use, which
            takes 0.1 s.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    @cached_property
    def _schema(self) -> Schema:
        return status_schema_of(self._model)

    @cached_property
    def _fits(self) -> Check:
        return _compile(self._schema)

    def fit(self, status: dict[str, Any]) -> tuple[FittedStatus, tuple[Cut, ...]]:
        """Return the status as the schema can hold it, and the cuts.

        Unknown fields stay, because a newer operator has written them. The argument is not changed.
        """
        if self._fits(status):
            return FittedStatus(status), ()
        cuts: list[Cut] = []
        mended = _mend(self._schema, status, "", cuts)
        return FittedStatus({} if mended is _LEFT_OUT else mended), tuple(cuts)

    @cached_property
    def _names(self) -> frozenset[str]:
        fields = self._model.model_fields
        return frozenset(field.alias or name for name, field in fields.items())

    def unknown_fields(self, status: dict[str, Any]) -> list[str]:
        """Return the names of fields that are not in the schema: a newer version has them."""
        return [name for name in status if name not in self._names]

    def section_of(self, field: str) -> str:
        """Return the top-level field of the status that a field belongs to, of a fixed set."""
        first = re.split(r"[.\[]", field.removeprefix("."), maxsplit=1)[0]
        return first if first in self._schema["properties"] else OTHER


def describe_cuts(cuts: Iterable[Cut]) -> str:
    """Return what was cut, for people."""
    told = [f"status.{cut.field} {cut.what}" for cut in cuts]
    more = f"; {len(told) - _MAX_CUTS_REPORTED} more" if len(told) > _MAX_CUTS_REPORTED else ""
    return (
        f"The status cannot hold all that was found: {'; '.join(told[:_MAX_CUTS_REPORTED])}{more}."
    )


# ---- checks of every status ---------------------------------------------------------------------


def _compile(schema: Schema) -> Check:
    """Return a function that checks whether a value fits.

    Raises:
        ValueError: The schema has a keyword that is not known here.
    """
    unknown = schema.keys() - _KNOWN_KEYWORDS
    if longest_key(schema) is not None and len(schema[VALIDATIONS]) == 1:
        unknown -= {VALIDATIONS}
    if unknown:
        raise ValueError(f"the schema of a status has {sorted(unknown)}: teach fitting.py first")
    match schema["type"]:
        case "object":
            return _object_check(schema)
        case "array":
            return _list_check(schema)
        case "string":
            return _text_check(schema)
        case "integer":
            low, high = _bounds(schema)
            return lambda value: type(value) is int and low <= value <= high
        case "boolean":
            return lambda value: type(value) is bool
        case other:
            raise ValueError(
                f"the schema of a status has the type {other!r}: teach fitting.py first"
            )


def _object_check(schema: Schema) -> Check:
    fields = {name: _compile(child) for name, child in schema.get("properties", {}).items()}
    values = schema.get("additionalProperties")
    other: Check = _compile(values) if isinstance(values, dict) else lambda _: True
    required, most = tuple(schema.get("required", ())), schema.get("maxProperties")
    longest = longest_key(schema)

    def fits(value: Any) -> bool:
        if type(value) is not dict or not value or (most is not None and len(value) > most):
            return False
        for name, item in value.items():
            if longest is not None and len(name) > longest:
                return False
            if not fields.get(name, other)(item):
                return False
        return all(name in value for name in required)

    return fits


def _list_check(schema: Schema) -> Check:
    check, most = _compile(schema["items"]), schema.get("maxItems")
    key_of = _key_of(schema)

    def fits(value: Any) -> bool:
        if type(value) is not list or not value or (most is not None and len(value) > most):
            return False
        if not all(map(check, value)):
            return False
        return key_of is None or len(set(map(key_of, value))) == len(value)

    return fits


def _text_check(schema: Schema) -> Check:
    if "enum" in schema:
        allowed = frozenset(schema["enum"])
        return lambda value: isinstance(value, str) and value in allowed
    most = schema["maxLength"]
    if schema.get("format") == "date-time":
        return lambda value: (
            isinstance(value, str) and len(value) <= most and bool(_DATE_TIME.fullmatch(value))
        )
    return lambda value: isinstance(value, str) and len(value) <= most and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    """Return whether a text can be sent: half of a surrogate pair cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bounds(schema: Schema) -> tuple[int, int]:
    low, high = _INT64
    return int(schema.get("minimum", low)), int(schema.get("maximum", high))


def _key_of(schema: Schema) -> Callable[[Any], Hashable] | None:
    """Return the key that must differ between the items of a list; None if there is none."""
    match schema.get("x-kubernetes-list-type"):
        case "map":
            (name,) = schema["x-kubernetes-list-map-keys"]
            return lambda item: item[name]
        case "set":
            return lambda item: item
    return None


# ---- cuts of the few that do not fit -------------------------------------------------------------


def _mend(schema: Schema, value: Any, field: str, cuts: list[Cut]) -> Any:
    """Return a value as its schema can hold it, or ``_LEFT_OUT``; add cuts to the list."""
    match schema["type"]:
        case "object" if isinstance(value, dict):
            return _mend_object(schema, value, field, cuts)
        case "array" if isinstance(value, list | tuple):
            return _mend_list(schema, list(value), field, cuts)
        case "string" if isinstance(value, str):
            return _mend_text(schema, value, field, cuts)
        case "integer" if _is_whole(value):
            return _mend_number(schema, int(value), field, cuts)
        case "boolean" if isinstance(value, bool):
            return value
    if value is not None:
        cuts.append(Cut(field, f"was left out: {_excerpt(value)} is no {schema['type']}"))
    return _LEFT_OUT


def _mend_object(schema: Schema, value: dict[str, Any], field: str, cuts: list[Cut]) -> Any:
    fields, values = schema.get("properties", {}), schema.get("additionalProperties")
    mended: dict[str, Any] = {}
    longest = longest_key(schema)
    for name, item in value.items():
        if longest is not None and len(name) > longest:
            cuts.append(Cut(field, f"leaves out a key of {len(name)} characters"))
            continue
        child = fields.get(name, values)
        place = f"{field}.{name}" if field else name
        kept = _mend(child, item, place, cuts) if isinstance(child, dict) else item
        if kept is not _LEFT_OUT:
            mended[name] = kept
    most = schema.get("maxProperties")
    if most is not None and len(mended) > most:
        cuts.append(Cut(field, f"keeps {most} of {len(mended)} entries"))
        mended = dict(list(mended.items())[:most])
    missing = [name for name in schema.get("required", ()) if name not in mended]
    if missing:
        cuts.append(Cut(field, f"was left out: it has no valid {missing[0]}"))
        return _LEFT_OUT
    return mended or _LEFT_OUT


def _mend_list(schema: Schema, value: list[Any], field: str, cuts: list[Cut]) -> Any:
    items = schema["items"]
    kept = [
        mended
        for number, item in enumerate(value)
        if (mended := _mend(items, item, f"{field}[{number}]", cuts)) is not _LEFT_OUT
    ]
    if key_of := _key_of(schema):
        distinct = list({key_of(item): item for item in reversed(kept)}.values())[::-1]
        if len(distinct) < len(kept):
            cuts.append(Cut(field, f"keeps one of each of {len(kept)} items, as some are alike"))
        kept = distinct
    most = schema.get("maxItems")
    if most is not None and len(kept) > most:
        is_timed = not _IN_TIME_ORDER.isdisjoint(items.get("required", ()))
        which = "newest" if is_timed else "first"
        cuts.append(Cut(field, f"keeps the {which} {most} of {len(kept)} items"))
        kept = kept[-most:] if is_timed else kept[:most]
    return kept or _LEFT_OUT


def _mend_text(schema: Schema, value: str, field: str, cuts: list[Cut]) -> Any:
    if not _is_unicode(value):
        value = value.encode(errors="replace").decode()
    if _text_check(schema)(value):
        return value
    most = schema.get("maxLength", 0)
    if "enum" in schema or schema.get("format") == "date-time":
        cuts.append(Cut(field, f"was left out: {_excerpt(value)} is not allowed there"))
        return _LEFT_OUT
    length = f"{len(value):,} characters of at most {most:,}"
    if schema.get(PROSE):
        cuts.append(Cut(field, f"was cut: {length}"))
        return shorten(value, most)
    cuts.append(Cut(field, f"was left out: {length}, and a part of it would be wrong"))
    return _LEFT_OUT


def _mend_number(schema: Schema, value: int, field: str, cuts: list[Cut]) -> int:
    low, high = _bounds(schema)
    mended = min(max(value, low), high)
    if mended != value:
        cuts.append(Cut(field, f"is given as {mended}: {_excerpt(value)} is out of bounds"))
    return mended


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _excerpt(value: Any) -> str:
    if isinstance(value, int) and not _INT64[0] <= value <= _INT64[1]:
        # Python refuses to write out the digits of a very long number.
        return f"a number of {value.bit_length()} bits"
    return shorten(repr(value), _MAX_CHARACTERS_REPORTED)
