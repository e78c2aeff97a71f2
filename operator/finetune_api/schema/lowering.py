"""Moves the rules of a schema to the place where the API server evaluates them at least cost.

To read one field of an object, the API server copies the schemas of all its fields, so a rule at
``spec`` pays for two dozen of them each time it says ``self.``, at every write of a status too. The
models state rules there, where they are read together; in the CRD each stands at the lowest place
that holds all it reads, on the way to the field that its error names.

What cannot be lowered and reads only fields that never change is judged once: a new object has no
status, and one that has a status passes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

VALIDATIONS = "x-kubernetes-validations"

FIXED = "self == oldSelf"
"""The rule of a field that never changes."""
ONCE = "has(self.status) || "
"""What a rule begins with that is only for new objects."""

_FIELD = re.compile(r"\bself\.(\w+)")
_LITERAL = re.compile(r"'[^']*'")
_INNERMOST = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")


def lowered(schema: Schema) -> Schema:
    """Return the schema with each rule as low as it may stand; what is refused stays the same."""
    result = copy.deepcopy(schema)
    _lower(result)
    _judge_once(result)
    _complete_defaults(result)
    return result


def _judge_once(schema: Schema) -> None:
    """Move rules about fixed fields of ``spec`` to the root, where they see whether it is new."""
    properties = schema.get("properties", {})
    if not {"spec", "status"} <= set(properties):
        return
    spec = properties["spec"]
    fixed = {name for name, field in spec["properties"].items() if _is_fixed(field)}
    kept: list[Schema] = []
    for validation in spec.pop(VALIDATIONS, []):
        rule = validation["rule"]
        if "oldSelf" not in rule and set(_FIELD.findall(rule)) <= fixed:
            schema.setdefault(VALIDATIONS, []).append(_once(validation))
        else:
            kept.append(validation)
    if kept:
        spec[VALIDATIONS] = kept


def _once(validation: Schema) -> Schema:
    """Return a rule of ``spec`` as it reads at the root: for objects without a status."""
    at_root = dict(validation, fieldPath=f".spec{validation.get('fieldPath', '')}")
    for key in ("rule", "messageExpression"):
        if key in validation:
            at_root[key] = _FIELD.sub(r"self.spec.\1", validation[key])
    at_root["rule"] = f"{ONCE}({at_root['rule']})"
    return at_root


def _is_fixed(field: Schema) -> bool:
    return any(rule["rule"] == FIXED for rule in field.get(VALIDATIONS, []))


def _complete_defaults(schema: Schema) -> None:
    """Write out the defaults of objects, because the API server applies rules to them.

    It refuses ``default: {}`` where a rule reads a field that has a default of its own.
    """
    for child in _children(schema):
        _complete_defaults(child)
    if isinstance(schema.get("default"), dict):
        schema["default"] = _whole(schema, schema["default"])


def _whole(schema: Schema, value: Schema) -> Schema:
    """Return an object with the defaults of all fields that it lacks."""
    fields = schema.get("properties", {})
    found = {name: field["default"] for name, field in fields.items() if "default" in field}
    for name, given in value.items():
        is_object = isinstance(given, dict) and name in fields
        found[name] = _whole(fields[name], given) if is_object else given
    return found


def _children(schema: Schema) -> Iterator[Schema]:
    yield from schema.get("properties", {}).values()
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield schema[keyword]


def _lower(schema: Schema) -> None:
    properties = schema.get("properties", {})
    kept = []
    for validation in schema.pop(VALIDATIONS, []):
        name = validation.get("fieldPath", "").removeprefix(".").partition(".")[0]
        moved = narrowed(validation, name, is_required=_is_always_there(schema, name))
        if moved is None:
            kept.append(validation)
        else:
            properties[name].setdefault(VALIDATIONS, []).append(moved)
    if kept:
        schema[VALIDATIONS] = kept
    for child in _children(schema):
        _lower(child)


def _is_always_there(schema: Schema, name: str) -> bool:
    """Whether rules find the field in every object: the API server fills in what has a default."""
    fields = schema.get("properties", {})
    return name in schema.get("required", []) or "default" in fields.get(name, {})


def narrowed(validation: Schema, name: str, *, is_required: bool) -> Schema | None:
    """Return a rule as it reads at the field ``name``, or None where it has to stay.

    It stays if it reads other fields, compares with old values, or tests whether the field exists
    (other than to pass objects without it).
    """
    rule = validation["rule"]
    body = rule.removeprefix(f"!has(self.{name}) || ")
    is_guarded = body != rule
    if not name or not (is_guarded or is_required) or (is_guarded and _chooses(body)):
        return None
    field = re.compile(rf"\bself\.{name}\b")
    texts = {"rule": body}
    if "messageExpression" in validation:
        texts["messageExpression"] = validation["messageExpression"]
    for text in texts.values():
        reads_more = re.search(r"\bself\b|\boldSelf\b", field.sub("", text))
        if reads_more or f"has(self.{name})" in text:
            return None
    moved = validation | {key: field.sub("self", text) for key, text in texts.items()}
    moved["fieldPath"] = validation["fieldPath"].removeprefix(f".{name}")
    if not moved["fieldPath"]:
        del moved["fieldPath"]
    return moved


def _chooses(expression: str) -> bool:
    """Whether an expression is ``a ? b : c``: what stood before it with ``||`` was part of a."""
    text, bare = _LITERAL.sub("", expression), ""
    while text != bare:
        text, bare = _INNERMOST.sub("", text), text
    return "?" in text
