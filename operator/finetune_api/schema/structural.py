"""From pydantic's JSON Schema to the structural schema of a CRD.

References are inlined, nulls become optional fields, closed objects rely on pruning, ``int
    "auto"`` becomes an int-or-string, and cross-field rules become CEL.
"""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel

from finetune_api.meta import PROSE
from finetune_api.rule import Rule
from finetune_api.schema.sizes import key_rule

Schema = dict[str, Any]

KEYWORD_ORDER = (
    "description",
    "type",
    "format",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "default",
    "required",
    "x-kubernetes-validations",
    "properties",
    "items",
    "additionalProperties",
)
"""Keywords in the order a reader wants them; others go last."""

DROPPED_KEYWORDS = frozenset({"title", "discriminator", "additionalProperties", "$defs", "default"})


def auto_or_integer_message(minimum: int, maximum: int) -> str:
    """Return what is said when a field is neither ``auto`` nor a whole number in range."""
    return f"must be 'auto' or a whole number from {minimum} to {maximum}"


def schema_of(model: type[BaseModel]) -> Schema:
    """Return the structural schema of an API object, without rules over several fields."""
    raw = model.model_json_schema(by_alias=True)
    return _structural(raw, raw.get("$defs", {}))


def _structural(schema: Schema, definitions: Schema) -> Schema:
    schema = _inline(schema, definitions)
    if "anyOf" in schema:
        return _int_or_string(schema)
    result = {key: value for key, value in schema.items() if key not in DROPPED_KEYWORDS}
    result = {key: copy.deepcopy(value) for key, value in result.items()}
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if result.get("type") == "integer":
        result["format"] = "int64"
    default = schema.get("default")
    if default is not None and default not in ({}, [], ""):
        result["default"] = copy.deepcopy(default)
    if "items" in schema:
        result["items"] = _structural(schema["items"], definitions)
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        result["additionalProperties"] = _structural(values, definitions)
        if (longest := result.pop("propertyNames", {}).get("maxLength")) is not None:
            result.setdefault("x-kubernetes-validations", []).append(key_rule(longest))
    if "properties" in schema:
        _add_properties(result, schema, definitions)
    return result


def _add_properties(result: Schema, schema: Schema, definitions: Schema) -> None:
    result["properties"] = {
        name: _structural(value, definitions) for name, value in schema["properties"].items()
    }
    if "default" in result:
        # The fields have their own defaults, which the API server also fills into an empty object.
        result["default"] = {}


def _inline(schema: Schema, definitions: Schema) -> Schema:
    """Resolve ``$ref`` and ``anyOf: [X, null]``; what stands beside them wins."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _inline({**target, **beside}, definitions)
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
        beside = {key: value for key, value in schema.items() if key != "anyOf"}
        if len(choices) == 1:
            return _inline({**choices[0], **beside}, definitions)
        return {**beside, "anyOf": choices}
    return schema


def _int_or_string(schema: Schema) -> Schema:
    """Turn ``int | Literal["auto"]`` into an int-or-string with a CEL rule for its values."""
    integer = next(choice for choice in schema["anyOf"] if choice["type"] == "integer")
    low, high = integer["minimum"], integer["maximum"]
    return {
        "description": " ".join(schema["description"].split()),
        "x-kubernetes-int-or-string": True,
        "default": schema["default"],
        "x-kubernetes-validations": [
            {
                "rule": (
                    f"type(self) == string ? self == 'auto' : (self >= {low} && self <= {high})"
                ),
                "message": auto_or_integer_message(low, high),
            }
        ],
    }


def add_rules(schema: Schema, rules: tuple[Rule, ...], prefix: str) -> None:
    """Add cross-field rules; ``prefix`` is the path of ``schema`` below ``spec``."""
    for rule in rules:
        told = {"message": rule.message, "fieldPath": "." + rule.field.removeprefix(prefix)}
        if rule.message_expression:
            told["messageExpression"] = rule.message_expression
        validations = [{"rule": expression, **told} for expression in rule.expressions]
        schema.setdefault("x-kubernetes-validations", []).extend(validations)


def status_schema_of(model: type[BaseModel]) -> Schema:
    """Return the structural schema of a status, with marks for texts that may be cut (``PROSE``).

    It has no defaults: a filled-in default would differ from the applied status.
    """
    schema = schema_of(model)
    _drop(schema, "default")
    return schema


def finish_status(schema: Schema) -> None:
    """Turn the schema of a status, below that of its kind, into what the CRD says of it."""
    _drop(schema, "default", PROSE)


def _drop(schema: Schema, *keywords: str) -> None:
    for keyword in keywords:
        schema.pop(keyword, None)
    for child in schema.get("properties", {}).values():
        _drop(child, *keywords)
    for below in ("items", "additionalProperties"):
        if isinstance(schema.get(below), dict):
            _drop(schema[below], *keywords)


def ordered(schema: Schema) -> Schema:
    """Return a schema with its keywords in the order a reader wants them."""
    rank = {keyword: position for position, keyword in enumerate(KEYWORD_ORDER)}
    result = dict(sorted(schema.items(), key=lambda item: rank.get(item[0], len(rank))))
    if "properties" in result:
        result["properties"] = {k: ordered(v) for k, v in result["properties"].items()}
    for keyword in ("items", "additionalProperties"):
        if isinstance(result.get(keyword), dict):
            result[keyword] = ordered(result[keyword])
    return result
