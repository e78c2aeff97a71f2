"""Where the spec of a job names places in storage: one list for all who check or change them.

A test keeps it equal to the fields of that type, so that none is forgotten.
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
        spec: The spec as it travels, in wire names. It may be invalid: what has another shape is
            passed over.
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
    """Put what ``change`` makes of each URI of a spec in its place.

    Args:
        spec: As for :func:`find_uris`; changed in place.
        change: Returns the new URI.
    """
    for place, uri in list(find_uris(spec)):
        *parents, last = place
        target = spec
        for part in parents:
            target = target[part]
        target[last] = change(uri)
