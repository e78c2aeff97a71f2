"""The largest size of an object, computed from its schema.

The length of an object is that of its JSON in characters, on one line. Numbers, words and short
texts count at their longest; CEL adds up longer texts, lists and maps. So a length is never less
than that of the JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

Schema = dict[str, Any]

SHORT_TEXT = 32
"""Texts that are at most so long count as their longest."""
NUMBER_LENGTH = 20
_LONGEST_KEY = re.compile(r"^self\.all\(k, k\.size\(\) <= (\d+)\)$")


class UnboundedError(ValueError):
    """A schema allows something without end; the message names its path."""


class Part(NamedTuple):
    """A part of an object whose length varies.

    Attributes:
        path: Its fields, from the object down.
        optional: Number of leading fields of each optional part of the path.
    """

    path: tuple[str, ...]
    schema: Schema
    optional: tuple[int, ...]


def key_rule(longest: int) -> Schema:
    """Return the validation of a map whose keys are bounded, which a schema cannot say."""
    return {
        "rule": f"self.all(k, k.size() <= {longest})",
        "message": f"keys must have at most {longest} characters",
    }


def largest_length(schema: Schema, *, without: Collection[str] = (), path: str = "") -> int:
    """Return the length of the longest JSON that a schema allows.

    Args:
        schema: The schema.
        without: Dotted paths of parts that another rule adds up.
        path: Place of the schema, for the error.

    Raises:
        UnboundedError: A part has no bound.
    """
    total = fixed_length(schema, path)
    for part in varying(schema):
        name = ".".join((path, *part.path)).strip(".")
        if any(name == each or name.startswith(f"{each}.") for each in without):
            continue
        if "additionalProperties" in part.schema:
            values = part.schema["additionalProperties"]
            each = 4 + _longest_key(part.schema, name)
            each += largest_length(values, without=without, path=f"{name}{{}}")
            total += _bound(part.schema, "maxProperties", name) * each
        elif part.schema["type"] == "array":
            each = 1 + largest_length(part.schema["items"], without=without, path=f"{name}[]")
            total += _bound(part.schema, "maxItems", name) * each
        else:
            total += _bound(part.schema, "maxLength", name)
    return total


def fixed_length(schema: Schema, path: str = "") -> int:
    """Return the length of an object without its varying parts.

    Raises:
        UnboundedError: A number has no bound, or an object takes unknown fields.
    """
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        raise UnboundedError(f"{path} takes unknown fields")
    if "enum" in schema:
        return max(len(json.dumps(each)) for each in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return NUMBER_LENGTH + int(schema.get("maxLength", 0))
    kind = schema["type"]
    if kind == "object":
        fields = schema.get("properties", {})
        each = (len(name) + 4 + fixed_length(of, f"{path}.{name}") for name, of in fields.items())
        return 2 + sum(each)
    if kind == "integer":
        _bound(schema, "minimum", path)
        _bound(schema, "maximum", path)
    if kind == "string" and not _is_long(schema):
        return 2 + int(schema["maxLength"])
    return 2 if kind in ("array", "string") else NUMBER_LENGTH


def varying(schema: Schema) -> Iterator[Part]:
    """Yield what varies in length below a schema, or the schema itself; no further down in it."""
    if _is_long(schema):
        yield Part((), schema, ())
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        may_miss = () if name in required or "default" in field else (1,)
        for path, part, optional in varying(field):
            yield Part((name, *path), part, (*may_miss, *(1 + each for each in optional)))


def varying_length(schema: Schema, value: Any) -> int:
    """Return how much of the length of a value is not fixed by its schema."""
    return length_reader(schema)(value)


def length_reader(schema: Schema) -> Callable[[Any], int]:
    """Return what reads ``varying_length`` of values: the schema is walked once for all."""
    readers = [(part.path, _part_reader(part.schema)) for part in varying(schema)]

    def read(value: Any) -> int:
        total = 0
        for path, read_part in readers:
            found = value
            for name in path:
                found = found.get(name) if isinstance(found, Mapping) else None
            if found is not None:
                total += read_part(found)
        return total

    return read


def _part_reader(schema: Schema) -> Callable[[Any], int]:
    if "additionalProperties" in schema:
        values = schema["additionalProperties"]
        each, within = 4 + fixed_length(values), length_reader(values)
        return lambda found: sum(each + len(key) + within(of) for key, of in found.items())
    if schema["type"] == "array":
        each, within = 1 + fixed_length(schema["items"]), length_reader(schema["items"])
        return lambda found: sum(each + within(item) for item in found)
    return len


def varying_length_cel(schema: Schema, at: str, depth: int = 0) -> str:
    """Return ``varying_length`` as CEL; empty if nothing varies.

    Args:
        schema: Schema of the value.
        at: CEL of the value, which exists.
        depth: Number of lists and maps around it.
    """
    terms = []
    for path, part, optional in varying(schema):
        place = ".".join((at, *path))
        term = _part_cel(part, place, depth)
        if optional:
            guards = [f"has({'.'.join((at, *path[:number]))})" for number in optional]
            term = f"({' && '.join(guards)} ? {term} : 0)"
        terms.append(term)
    return " + ".join(terms)


def _part_cel(schema: Schema, at: str, depth: int) -> str:
    variable = "abcdefgh"[depth]
    if "additionalProperties" in schema:
        values = schema["additionalProperties"]
        each = [str(4 + fixed_length(values)), f"{variable}.size()"]
        within = varying_length_cel(values, f"{at}[{variable}]", depth + 1)
    elif schema["type"] == "array":
        each = [str(1 + fixed_length(schema["items"]))]
        within = varying_length_cel(schema["items"], variable, depth + 1)
    else:
        return f"{at}.size()"
    return f"{at}.map({variable}, {' + '.join([*each, within] if within else each)}).sum()"


def _is_long(schema: Schema) -> bool:
    if schema.get("type") == "array" or "additionalProperties" in schema:
        return True
    is_text = schema.get("type") == "string" and "enum" not in schema
    return is_text and not schema.get("maxLength", SHORT_TEXT + 1) <= SHORT_TEXT


def _bound(schema: Schema, keyword: str, path: str) -> int:
    if keyword not in schema:
        raise UnboundedError(f"{path} has no {keyword}")
    return int(schema[keyword])


def longest_key(schema: Schema) -> int | None:
    """Return the largest length of a map's keys; None if unbounded."""
    for validation in schema.get("x-kubernetes-validations", ()):
        if found := _LONGEST_KEY.match(validation["rule"]):
            return int(found[1])
    return None


def _longest_key(schema: Schema, path: str) -> int:
    longest = longest_key(schema)
    if longest is None:
        raise UnboundedError(f"the keys of {path} have no bound")
    return longest
