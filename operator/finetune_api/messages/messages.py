"""Validation errors in the words of the API server.

Pydantic reports model internals (union branches, Python type names). Here an error becomes one line
per field: ``spec.model.uri: Required value``. The reader of the text adds line numbers.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune_api.messages.remedies import field_remedy, remedy_of, synonym_of, uri_remedy
from finetune_api.meta import KIND, NAME_PATTERN
from finetune_api.patterns import LABEL_RULE
from finetune_api.rule import BrokenRulesError
from finetune_api.schema.structural import Schema
from finetune_api.v1alpha1.finetunejob import FineTuneJob

Location = tuple[str | int, ...]
LineOf = Callable[[Location], int | None]
"""Maps the place of a field to its line, 1-based; None when unknown."""

SHOWN_VALUE_LENGTH = 80
MAX_PROBLEMS_IN_LINE = 8
SUGGESTING_LENGTH = 4
"""A shorter word is part of too many others by chance."""
MAX_SUGGESTIONS = 3
MAX_FIELDS_LISTED = 12

TYPE_NAMES = {
    "int_type": "integer",
    "int_from_float": "integer",
    "bool_type": "boolean",
    "string_type": "string",
    "dict_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
    "list_type": "array",
}

PATTERN_WORDS = {NAME_PATTERN: LABEL_RULE.message}
"""What a text must be, by the pattern that fields check themselves."""


def path_of(location: Location) -> str:
    """Return a place as the API server writes it, for example ``spec.dataset.sources[0].uri``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One error of an object.

    Attributes:
        location: Place of the field, wire names and list positions.
        message: The error, without the field's path.
        line: Line in the text it was read from, 1-based, if known.
    """

    location: Location
    message: str
    line: int | None = None

    @property
    def path(self) -> str:
        """The field as the API server writes it."""
        return path_of(self.location)

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.location else self.message


class InvalidJobError(ValueError):
    """A FineTuneJob the API server would refuse.

    Attributes:
        problems: All its errors, in the order of the text.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def parse_job(body: object, *, line_of: LineOf | None = None) -> FineTuneJob:
    """Validate one object as the API server would.

    Args:
        body: The object as parsed from YAML or JSON.
        line_of: Returns the line of a field in the text.

    Raises:
        InvalidJobError: With every problem found.
    """
    if not isinstance(body, dict):
        message = (
            f"a FineTuneJob is a mapping of fields, this is {_type_name(body)}; write apiVersion, "
            "kind, metadata and spec without a dash before them (`finetune init` writes a starter)"
        )
        raise InvalidJobError([Problem(location=(), message=message, line=1)])
    absent = [
        Problem(location=(field,), message="Required value", line=line_of(()) if line_of else None)
        for field in ("apiVersion", "kind")
        if body.get(field) is None
    ]
    try:
        job = FineTuneJob.from_wire(body)
    except ValidationError as error:
        raise InvalidJobError([*absent, *explain(error, body, line_of=line_of)]) from error
    if absent:
        raise InvalidJobError(absent)
    return job


def explain(
    error: ValidationError,
    body: Mapping[str, Any],
    *,
    kind: str = KIND,
    line_of: LineOf | None = None,
) -> list[Problem]:
    """Return one problem per field for pydantic's errors, sorted by line where lines are known.

    Args:
        error: Pydantic's error.
        body: The object as it was read.
        kind: FineTuneJob, FineTuneSweep or FineTuneApproval.
        line_of: Returns the line of a field in the text.
    """
    found: dict[tuple[Location, str], Problem] = {}
    schema = schema_of_kind(kind)
    for details in error.errors(include_url=False):
        for location, message in _explain_one(details, body, schema):
            line = line_of(location) if line_of else None
            found.setdefault(
                (location, message), Problem(location=location, message=message, line=line)
            )
    return sorted(found.values(), key=lambda problem: problem.line or 0)


def explain_in_line(error: ValidationError, body: Mapping[str, Any], *, kind: str = KIND) -> str:
    """Return the first problems of an object in one line, as the API server would say them."""
    problems = explain(error, body, kind=kind)[:MAX_PROBLEMS_IN_LINE]
    return "; ".join(str(problem) for problem in problems)


@functools.cache
def schema_of_kind(kind: str) -> Schema:
    """Return the schema of a kind, rules included."""
    # The models of all kinds take a fifth of a second, and only a refused object needs them.
    from finetune_api.crd import CUSTOM_KINDS

    (custom,) = (each for each in CUSTOM_KINDS if each.kind == kind)
    return custom.build_schema()


def _explain_one(
    details: ErrorDetails, body: Mapping[str, Any], schema: Schema
) -> Iterable[tuple[Location, str]]:
    location, is_union = _clean_location(details["loc"], schema)
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, BrokenRulesError):
        for rule in cause.broken:
            place = _place_of(location, rule.field)
            yield place, f"Invalid value: {_shown_prefix(body, place)}{rule.message}"
    elif is_union:
        rule_message = _schema_at(location, schema)["x-kubernetes-validations"][0]["message"]
        yield location, f"Invalid value: {_shown(details['input'])}: {rule_message}"
    else:
        yield location, _message(details, location, schema)


def _place_of(location: Location, field: str) -> Location:
    """Return the place of a rule's field; rules of a pod template begin with its own name."""
    parts = field.split(".")
    return (*(location[:-1] if location[-1:] == (parts[0],) else location), *parts)


def _message(details: ErrorDetails, location: Location, schema: Schema) -> str:
    kind, context = details["type"], details.get("ctx", {})
    value = details["input"]
    invalid = f"Invalid value: {_shown(value)}:"
    naming = schema.get("x-kubernetes-validations")  # of a FineTuneApproval there is none
    is_text = kind.startswith("string_") and kind != "string_type"
    if location == ("metadata", "name") and is_text and naming:
        return f"{invalid} {naming[0]['message']}"
    if kind == "missing":
        return "Required value"
    if kind == "extra_forbidden":
        word = str(location[-1])
        if remedy := field_remedy(location, value):
            return f"unknown field; {remedy}"
        known = _fields_at(location[:-1], schema)
        hint = _suggestion(word, known) or _elsewhere(word, schema)
        if not hint and 0 < len(known) <= MAX_FIELDS_LISTED:
            hint = f"; known are {', '.join(known)}"
        return f"unknown field{hint}"
    if kind == "literal_error":
        allowed = _schema_at(location, schema).get("enum") or [context["expected"].strip("'")]
        shown = ", ".join(json.dumps(choice) for choice in allowed)
        hint = synonym_of(value, allowed) or _suggestion(str(value), allowed)
        return f"Unsupported value: {_shown(value)}: supported values: {shown}{hint}"
    if kind in TYPE_NAMES:
        wanted, field = TYPE_NAMES[kind], str(location[-1]) if location else ""
        remedy = remedy_of(wanted, value, _schema_at(location, schema), field)
        text = f"{invalid} must be of type {wanted}, not {_type_name(value)}"
        return f"{text}: {remedy}" if remedy else text
    if kind == "value_error":
        text = str(context["error"])
        for told in (f"{value!r} ", f"{str(value)!r} "):
            text = text.removeprefix(told)
        remedy = uri_remedy(value, location, text) if isinstance(value, str) else ""
        return f"{invalid} {text}; {remedy}" if remedy else f"{invalid} {text}"
    if kind == "too_long" and isinstance(value, str):
        kind = "string_too_long"  # a length bound that follows a validator function
    return _bound_message(kind, context, value) or f"{invalid} {details['msg']}"


def _bound_message(kind: str, context: Mapping[str, Any], value: Any) -> str | None:
    invalid = f"Invalid value: {_shown(value)}:"
    match kind:
        case "greater_than_equal":
            return f"{invalid} should be greater than or equal to {context['ge']}"
        case "less_than_equal":
            return f"{invalid} should be less than or equal to {context['le']}"
        case "string_pattern_mismatch":
            return f"{invalid} {PATTERN_WORDS[context['pattern']]}"
        case "string_too_short":
            return f"{invalid} should be at least {context['min_length']} chars long"
        case "string_too_long":
            limit = context["max_length"]
            return (
                f"Too long: {_shown(value)}: may not be more than {limit} characters, and has"
                f" {len(value)}"
            )
        case "too_short":
            return f"{invalid} should have at least {context['min_length']} items"
        case "too_long":
            num_items, limit = context["actual_length"], context["max_length"]
            return f"Too many: {num_items}: must have at most {limit} items"
    return None


def _clean_location(location: tuple[int | str, ...], schema: Schema) -> tuple[Location, bool]:
    """Drop the union branch that pydantic appends to the place of a field."""
    last = str(location[-1]) if location else ""
    is_branch = last in ("int", "constrained-int") or last.startswith("literal[")
    is_union = is_branch and not _schema_at(location, schema)  # a field may have that name
    return (location[:-1] if is_union else location), is_union


def _schema_at(location: Location, schema: Schema) -> Schema:
    for part in location:
        if isinstance(part, int):
            schema = schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(part, {})
    return schema


def _fields_at(location: Location, schema: Schema) -> list[str]:
    fields = list(_schema_at(location, schema).get("properties", {}))
    return [field for field in fields if location or field != "status"]


def _suggestion(word: str, known: Sequence[str]) -> str:
    lowered = {choice.lower(): choice for choice in known}
    if word.lower() in lowered:
        return f"; did you mean {lowered[word.lower()]}?"
    whole = [choice for low, choice in lowered.items() if word.lower() in low]
    if len(word) >= SUGGESTING_LENGTH and 0 < len(whole) <= MAX_SUGGESTIONS:
        return f"; did you mean {' or '.join(whole)}?"
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {lowered[close[0]]}?"
    return ""


def _elsewhere(word: str, schema: Schema) -> str:
    """Say where a field of this name belongs, if it is in the wrong place."""
    places = list(_places_of(word, schema["properties"]["spec"], "spec"))
    return f"; it belongs to {' or '.join(places)}" if 0 < len(places) <= MAX_SUGGESTIONS else ""


def _places_of(word: str, schema: Mapping[str, Any], path: str) -> Iterable[str]:
    for name, child in schema.get("properties", {}).items():
        if name == word:
            yield path
        inner, step = (child["items"], "[]") if "items" in child else (child, "")
        yield from _places_of(word, inner, f"{path}.{name}{step}")


def _shown(value: object) -> str:
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value):  # a value may be megabytes
        text += piece
        if len(text) > SHOWN_VALUE_LENGTH:
            break
    if len(text) <= SHOWN_VALUE_LENGTH:
        return text
    return text[: SHOWN_VALUE_LENGTH - 3] + "..."


def _shown_prefix(body: Mapping[str, Any], location: Location) -> str:
    value: Any = body
    for part in location:
        try:
            value = value[cast("Any", part)]
        except (KeyError, IndexError, TypeError):
            return ""
    return "" if isinstance(value, dict | list) else f"{_shown(value)}: "


def _type_name(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case None:
            return "null"
    return type(value).__name__
