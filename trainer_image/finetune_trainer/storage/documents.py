"""Small JSON documents in a store."""

from __future__ import annotations

import json
from typing import Any

from finetune_trainer.storage.store import ObjectStore


def read_json(store: ObjectStore, key: str) -> dict[str, Any] | None:
    """Read a JSON object, or return None if it is not there.

    Raises:
        StorageError: The store failed.
    """
    if not store.exists(key):
        return None
    value: dict[str, Any] = json.loads(store.read_bytes(key))
    return value
