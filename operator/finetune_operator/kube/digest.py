"""Digests of JSON values, for telling cheaply whether two are the same."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson


def digest_of(value: Any) -> bytes:
    """Return a digest of JSON data that does not hang on the order of keys."""
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=16).digest()
