"""Excerpts of large specs, which the caches keep of FineTuneJobs and sweeps.

An excerpt has the numbers and short texts that are read of many objects at once. A reconciler reads
the whole spec from the API server when it reconciles the object.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

MAX_KEPT_BYTES = 8 * 1024
"""A spec that is larger as JSON is kept as an excerpt."""
MAX_TEXT = 256
MAX_DEPTH = 4
POD_TEMPLATE = "podTemplate"
"""Nothing of it is read of a job that is not looked at."""


class Excerpt(dict[str, Any]):
    """What is kept of a spec that is too large: numbers and words at their places, no lists."""


def excerpt_of(spec: Mapping[str, Any], *, without: Collection[str] = (POD_TEMPLATE,)) -> Excerpt:
    """Return an excerpt of a spec.

    Args:
        spec: The spec.
        without: Fields that are left out whole.
    """
    kept = {key: value for key, value in spec.items() if key not in without}
    return Excerpt(_words_of(kept, MAX_DEPTH))


def is_large(spec: Mapping[str, Any]) -> bool:
    """Whether an excerpt is kept of a spec."""
    return len(orjson.dumps(spec)) > MAX_KEPT_BYTES


def is_whole(obj: Mapping[str, Any]) -> bool:
    """Whether an object has its whole spec; else the API server has to be asked for it."""
    return not isinstance(obj.get("spec"), Excerpt)


def _words_of(fields: Mapping[str, Any], depth: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            if depth > 1:
                kept[key] = _words_of(value, depth - 1)
        elif isinstance(value, str):
            if len(value) <= MAX_TEXT:
                kept[key] = value
        elif not isinstance(value, list):
            kept[key] = value
    return kept
