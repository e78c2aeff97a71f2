"""The fields of a job's spec with URIs, in one list.

A test compares it with the fields of that type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from finetune_api.messages.messages import Location

EACH = "[]"
"""Stands for every item of a list."""

OUTPUT_FIELD = ("output", "uri")

URI_FIELDS: tuple[tuple[str, ...], ...] = (
    ("model", "uri"),
    ("dataset", "sources", EACH, "uri"),
    ("dataset", "contamination", "against", EACH, "uri"),
    ("initFrom", "uri"),
    ("model", "chatTemplate", "uri"),
    ("evaluation", "jsonSchema", "uri"),
    ("evaluation", "forgetting", "texts", "uri"),
    OUTPUT_FIELD,
)
"""Every field of a spec with a URI, wire names. All are read but that of the output."""


def find_uris(spec: object) -> Iterator[tuple[Location, str]]:
    """Yield every URI of a spec with its place below ``spec``.

    Args:
        spec: The spec in wire names. It may be invalid: unexpected shapes are ignored.
    """
    for field in URI_FIELDS:
        yield from _find(spec, field, ())


def _find(value: Any, field: tuple[str, ...], place: Location) -> Iterator[tuple[Location, str]]:
    if not field:
        if isinstance(value, str):
            yield place, value
        return
    name, below = field[0], field[1:]
    if name == EACH and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, below, (*place, index))
    elif isinstance(value, dict):
        yield from _find(value.get(name), below, (*place, name))


def replace_uris(spec: Any, change: Callable[[str], str]) -> None:
    """Replace each URI of a spec in place by the result of ``change``."""
    for place, uri in list(find_uris(spec)):
        *parents, last = place
        target = spec
        for part in parents:
            target = target[part]
        target[last] = change(uri)
