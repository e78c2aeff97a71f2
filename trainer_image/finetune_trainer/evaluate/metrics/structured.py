"""Answers as JSON: valid, of a schema, equal, and how many fields are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from finetune_trainer.data.answers.values import ABSENT, read_json_value, without_fence
from finetune_trainer.evaluate.metrics.answers import Measured, References, mean_of

Field = tuple[str, str, object]
"""Path, type and value of one leaf."""


def json_valid(texts: Sequence[str], references: References) -> Measured:
    """Return the share of answers that are JSON from end to end, as a program would read them.

    Source: RFC 8259; NaN and Infinity, which Python would take, are none.
    """
    return mean_of([float(read_json_value(text) is not ABSENT) for text in texts])


def json_equal(texts: Sequence[str], references: References) -> Measured:
    """Return the share of answers that are a reference's JSON value, in whatever order of keys.

    A Markdown fence around the whole answer is set aside, here and below: it is manners, which
    :func:`json_valid` counts.
    """
    return _best(texts, references, _is_equal)


def json_field_f1(texts: Sequence[str], references: References) -> Measured:
    """Return the F1 of an answer's fields against those of its reference, the best of several.

    A field is a leaf with its path, type and value: ``"1"`` is no ``1``, and ``1.0`` is one. Items
    of a list share one path, so that neither their order counts nor which item a value belongs to.
    The score over several rows is the mean of the rows'.
    """
    return _best(texts, references, _field_f1)


def json_schema_valid(
    check: Callable[[Any], bool], texts: Sequence[str], references: References
) -> Measured:
    """Return the share of answers that match a schema.

    Args:
        check: Tells whether a JSON value matches it.
        texts: The answers.
        references: Not looked at.
    """
    values = [read_json_value(without_fence(text), decimals=False) for text in texts]
    return mean_of([float(value is not ABSENT and check(value)) for value in values])


def looks_like_json(references: References) -> bool:
    """Tell whether every reference is a JSON object or list."""
    values = [read_json_value(reference) for group in references for reference in group]
    return bool(values) and all(isinstance(value, dict | list) for value in values)


def list_fields(value: Any) -> list[Field]:
    """Return the leaves of a JSON value, whose numbers were read as decimals.

    An empty object or list is a leaf of its own.
    """
    fields: list[Field] = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict) and node:
            stack.extend((f"{path}/{_escape(key)}", child) for key, child in node.items())
        elif isinstance(node, list) and node:
            stack.extend((f"{path}/*", child) for child in node)
        else:
            fields.append((path, _type_of(node), str(node) if node in ([], {}) else node))
    return fields


def _best(
    texts: Sequence[str], references: References, score: Callable[[Any, Any], float]
) -> Measured:
    scores = []
    for text, group in zip(texts, references, strict=True):
        said = read_json_value(without_fence(text))
        wanted = [value for value in map(read_json_value, group) if value is not ABSENT]
        scores.append(
            0.0 if said is ABSENT else max((score(said, value) for value in wanted), default=0.0)
        )
    return mean_of(scores)


def _field_f1(said: Any, wanted: Any) -> float:
    ours, theirs = Counter(list_fields(said)), Counter(list_fields(wanted))
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def _is_equal(said: Any, wanted: Any) -> float:
    try:
        return float(_freeze(said) == _freeze(wanted))
    except RecursionError:
        return 0.0


def _freeze(value: Any) -> object:
    """Return a value that equals another one only if type and value do, at every depth."""
    if isinstance(value, dict):
        return "object", frozenset((key, _freeze(child)) for key, child in value.items())
    if isinstance(value, list):
        return "list", tuple(_freeze(child) for child in value)
    return _type_of(value), value


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1").replace("*", "~2")


def _type_of(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case Decimal():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
        case dict():
            return "object"
        case list():
            return "list"
    raise TypeError(f"{type(value).__name__} is no JSON")
