"""Checks the JSON Schema and the regular expression that a job compares answers with.

jsonschema is imported only by the functions that need it. No schema is ever fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from finetune_api.messages.messages import Location
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec

Place = tuple[str | int, ...]


def find_answer_check_errors(spec: FineTuneJobSpec) -> list[tuple[Location, str]]:
    """Return the fields with a bad schema or regular expression, and the errors.

    A schema in a file is read in ``prepare``; so is one in the job where jsonschema is missing.
    """
    evaluation = spec.evaluation
    found: list[tuple[Location, str]] = []
    if problem := find_pattern_error(evaluation.answer_pattern or ""):
        found.append((("evaluation", "answerPattern"), problem))
    schema = evaluation.json_schema
    if schema is not None and schema.text is not None:
        try:
            problem = find_schema_error(schema.text)
        except ImportError:
            problem = None
        if problem:
            found.append((("evaluation", "jsonSchema", "text"), f"no JSON Schema: {problem}"))
    return found


def find_pattern_error(text: str) -> str | None:
    """Return what is wrong with a regular expression, or None."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        return f"no regular expression as Python writes it: {error}"
    return None


def find_schema_error(text: str) -> str | None:
    """Return the error of a JSON Schema and its place, or None.

    Args:
        text: The schema in JSON. ``$schema`` names the draft; without one it is 2020-12.

    Raises:
        ImportError: jsonschema is not installed.
    """
    from jsonschema.exceptions import best_match

    try:
        schema = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    except RecursionError:
        return "nested too deeply"
    if not isinstance(schema, dict | bool):
        return "a schema is a JSON object"
    kind = _kind_of(schema)
    worst = best_match(kind(kind.META_SCHEMA).iter_errors(schema))
    if worst is not None:
        return f"{_place(tuple(worst.absolute_path))}{worst.message}"
    return next(_find_loose_ends(schema), None)


def make_schema_check(text: str) -> Callable[[Any], bool]:
    """Return a function that checks whether a JSON value matches a schema.

    Args:
        text: A schema without errors of :func:`find_schema_error`.

    Raises:
        ImportError: jsonschema is not installed.
    """
    from referencing import Registry

    schema = json.loads(text)
    validator = _kind_of(schema)(schema, registry=Registry())

    def check(value: Any) -> bool:
        try:
            return bool(validator.is_valid(value))
        except (ArithmeticError, RecursionError):
            return False  # a number or a depth that most programs cannot read

    return check


def _kind_of(schema: Any) -> Any:
    from jsonschema.validators import Draft202012Validator, validator_for

    return validator_for(schema, default=Draft202012Validator)


def _find_loose_ends(schema: Any) -> Iterator[str]:
    """Yield references without a target and invalid regular expressions."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    base = resource.id() or ""
    resolver = Registry().with_resource(base, resource).resolver(base)
    for place, key, value in _walk(schema, ()):
        if key in ("$ref", "$dynamicRef") and isinstance(value, str):
            try:
                resolver.lookup(value)
            except Unresolvable:
                yield f"{_place(place)}{key} {value!r} leads nowhere within the schema"
        expressions = [value] if key == "pattern" and isinstance(value, str) else []
        if key == "patternProperties" and isinstance(value, dict):
            expressions = list(value)
        for expression in expressions:
            try:
                re.compile(expression)
            except re.error as error:
                yield f"{_place(place)}{key} {expression!r} is no regular expression: {error}"


def _walk(node: Any, place: Place) -> Iterator[tuple[Place, str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield place, key, value
            yield from _walk(value, (*place, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _walk(value, (*place, index))


def _place(place: Place) -> str:
    return f"at {'/'.join(map(str, place))}: " if place else ""
