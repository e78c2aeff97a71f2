"""What to write in place of a value of the wrong type, as the schema of its field tells it."""

from __future__ import annotations

import json
import re
from typing import Any

from finetune_api.patterns import broken_message
from finetune_api.structural import Schema

MAX_SHOWN = 60
"""Characters of a value that a remedy repeats."""
MAX_FIELDS = 8
SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# What YAML reads as this text, bare and between brackets.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@+-]*(:[A-Za-z0-9_./@+-]+)*")
_NO_TEXTS = ("true", "false", "yes", "no", "on", "off", "y", "n", "null")


def remedy_of(wanted: str, value: object, schema: Schema, field: str) -> str:
    """Return what to write instead; empty where nothing can be said.

    Args:
        wanted: The type that the field has: string, boolean, integer, object or array.
        value: What was written.
        schema: The field's.
        field: Its name.
    """
    match wanted:
        case "string":
            return _as_text(value, schema)
        case "boolean":
            return _as_boolean(value)
        case "integer":
            return _as_integer(value, field)
        case "object":
            return _as_object(value, schema)
        case "array":
            return _as_list(value, schema)
    return ""


def _as_text(value: object, schema: Schema) -> str:
    """Return the rule of the field where quotes alone would not mend it."""
    if not isinstance(value, bool | int | float):
        return ""
    return broken_message(schema, json.dumps(value)) or "write it in quotes"


def _as_boolean(value: object) -> str:
    is_quoted = isinstance(value, str) and value.lower() in ("true", "false")
    return "write it without quotes" if is_quoted else "write true or false, without quotes"


def _as_integer(value: object, field: str) -> str:
    is_time = field.endswith("Seconds")
    if isinstance(value, str) and re.fullmatch("-?[0-9]+", value):
        return "write it without quotes"
    if isinstance(value, str) and is_time and (m := re.fullmatch("([0-9]+) ?([smhd])", value)):
        return f"write a whole number, of seconds: {int(m[1]) * SECONDS_OF[m[2]]}"
    return f"write a whole number{', of seconds' if is_time else ''}, without quotes"


def _as_object(value: object, schema: Schema) -> str:
    fields, required = schema.get("properties"), schema.get("required")
    if fields is None:
        return "write a mapping, as {key: value}"
    if isinstance(value, bool) and not required:
        return "write {} to have it with its defaults" if value else "leave it out"
    if required:
        return f"write {_example_of(value, schema)}"
    names = ", ".join([*list(fields)[:MAX_FIELDS], *(["..."] if len(fields) > MAX_FIELDS else [])])
    return f"write a mapping; its fields are {names}"


def _example_of(value: object, schema: Schema) -> str:
    """Return an object with what it must have: the value itself, where one field takes it."""
    required = schema["required"]
    field = schema["properties"][required[0]]
    is_it = len(required) == 1 and isinstance(value, str) and _takes(field, value)
    shown = _flow(str(value)) if is_it else "..."
    return f"{{{', '.join(f'{name}: {shown}' for name in required)}}}"


def _as_list(value: object, schema: Schema) -> str:
    items = schema.get("items", {})
    if isinstance(value, dict):
        return "write a list: `- ` before its first field makes it one"
    if items.get("required"):
        return f"write [{_example_of(value, items)}]"
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if parts and all(_takes(items, part) for part in parts):
        return f"write [{', '.join(_flow(part) for part in parts)}]"
    return "write a list, as [a, b]"


def _takes(schema: Schema, text: str) -> bool:
    """Whether a field takes a text, as far as its own schema says."""
    is_known = text in schema.get("enum", [text]) and schema.get("type") == "string"
    return is_known and bool(text) and broken_message(schema, text) is None


def _flow(text: str) -> str:
    """Write a text as YAML between brackets."""
    if len(text) > MAX_SHOWN:
        return "..."
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXTS
    quoted: Any = json.dumps(text, ensure_ascii=False)
    return text if is_plain else str(quoted)
