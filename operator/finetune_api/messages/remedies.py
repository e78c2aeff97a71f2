"""What to write in place of a value that a field refuses, or of a field that there is not."""

from __future__ import annotations

import json
import re
from typing import Any

from finetune_api.patterns import SOURCE_RULES, URI_RULES, broken_message
from finetune_api.schema.structural import Schema
from finetune_api.v1alpha1.evaluation.scoring import METRIC_SYNONYMS

MAX_SHOWN = 60
"""Characters of a value that a remedy repeats."""
MAX_FIELDS = 8
SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_REMOVED = {
    ("spec", "lateTrials"): "it was removed: leave it out. All trials have"
    " template.priorityClassName; change priorityClassName of a FineTuneJob to have it wait",
    ("tracking", "tensorboard"): "it was removed: leave it out. mlflow and wandb are trackers, and"
    " metrics.jsonl beside the run has the curve",
    ("initFrom", "train"): "it was removed: leave it out. A job trains on from these weights, and"
    " the evaluation judges what comes out",
}
"""What to write instead of a field that is gone, by its parent and its name."""
_PLACES = ("path", "file", "files", "uri", "url", "name", "data", "id")
"""Words that people write for the address of a model or a data set."""
_HUB_PAGE = re.compile(r"https?://huggingface\.co/((datasets/)?[^/?#]+/[^/?#]+)")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

# YAML reads these words as this text, bare and between brackets.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@+-]*(:[A-Za-z0-9_./@+-]+)*")
_NO_TEXTS = ("true", "false", "yes", "no", "on", "off", "y", "n", "null")


def remedy_of(wanted: str, value: object, schema: Schema, field: str) -> str:
    """Return the value to write instead; empty if unknown.

    Args:
        wanted: Type of the field: string, boolean, integer, object or array.
        value: The written value.
        schema: Schema of the field.
        field: Name of the field.
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


def synonym_of(value: object, allowed: list[str]) -> str:
    """Return what stands for a value among those allowed; empty if unknown."""
    word = str(value).lower()
    if word == "tpe" and "Halving" in allowed:
        return "; TPE was removed: write Random, or Halving for many trials"
    meant = METRIC_SYNONYMS.get(word)
    return f"; did you mean {meant}?" if meant in allowed else ""


def field_remedy(location: tuple[str | int, ...], value: object) -> str:
    """Return what to write instead of a field that there is not; empty where nothing is known."""
    if gone := _REMOVED.get((str(location[-2]) if len(location) > 1 else "", str(location[-1]))):
        return gone
    word = str(location[-1]).lower()
    if not isinstance(value, str) or word not in _PLACES:
        return ""
    if location[1:-1] == ("dataset",):
        return f"write sources: [{{uri: {_flow(place_of(value, 'sources'))}}}]"
    if location[1:-1] == ("model",):
        return f"write uri: {_flow(place_of(value, 'model'))}"
    return ""


def uri_remedy(value: str, location: tuple[str | int, ...], message: str) -> str:
    """Return the URI for a text without a scheme; empty if unknown.

    Args:
        value: The written value.
        location: The field.
        message: Message of the broken rule.
    """
    if message not in (URI_RULES[0].message, SOURCE_RULES[0].message) or not value.strip():
        return ""
    field = str(location[1]) if len(location) > 1 else ""
    written = place_of(value, field)
    if "://" not in value:
        is_either = written.startswith("hf://") and field == "model"
        folder = f", or file://./{value} for a folder beside the job file" if is_either else ""
        return f"write {written}{folder}"
    if _HUB_PAGE.match(value):
        return f"write {written}"
    if value.startswith(("http://", "https://")):
        return f"a web address is not read: download it, and write {written}"
    return ""


def place_of(value: str, field: str) -> str:
    """Return the likeliest URI for what somebody wrote as the place of a model, data or results."""
    if page := _HUB_PAGE.match(value):
        return f"hf://{page[1]}"
    if value.startswith(("http://", "https://")):
        return f"file://./{value.rstrip('/').rpartition('/')[2].partition('?')[0] or 'file'}"
    if "://" in value:
        return value
    if value.startswith("/"):
        return f"file://{value}"
    if field == "model" and _REPOSITORY.fullmatch(value):
        return f"hf://{value}"
    return f"file://./{value.removeprefix('./')}"


def _as_text(value: object, schema: Schema) -> str:
    """Return the rule of the field that the text breaks even in quotes."""
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
    if isinstance(value, str) and (example := _choice_below(value, schema)):
        return f"write {example}"
    if required:
        return f"write {_example_of(value, schema)}"
    names = ", ".join([*list(fields)[:MAX_FIELDS], *(["..."] if len(fields) > MAX_FIELDS else [])])
    return f"write a mapping; its fields are {names}"


def _choice_below(value: str, schema: Schema) -> str:
    """Return the object in which some field takes a word, in any case; empty if none does."""
    for name, child in schema.get("properties", {}).items():
        for choice in child.get("enum", ()):
            if isinstance(choice, str) and choice.lower() == value.lower():
                return f"{{{name}: {choice}}}"
        if inner := _choice_below(value, child):
            return f"{{{name}: {inner}}}"
    return ""


def _example_of(value: object, schema: Schema) -> str:
    """Return an object with its required fields and the value, where one field takes it."""
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
    """Whether a field's own schema takes a text."""
    is_known = text in schema.get("enum", [text]) and schema.get("type") == "string"
    return is_known and bool(text) and broken_message(schema, text) is None


def _flow(text: str) -> str:
    """Write a text as YAML between brackets."""
    if len(text) > MAX_SHOWN:
        return "..."
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXTS
    quoted: Any = json.dumps(text, ensure_ascii=False)
    return text if is_plain else str(quoted)
