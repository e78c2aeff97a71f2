"""The records of looks at a held-out side: where they lie, and how many there are.

Each look has an object of its own, ``looks/<held-out side>/<number>.json``, which is written once
and never changed. The side is named by what its rows say: their order, file and line do not count.
With ``dataset.anchor`` it is named by the rows that were sealed, so that neither rows added since
nor deleted ones begin the count anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_trainer.storage import ObjectStore


def looks_prefix(held_out: str) -> str:
    """Return the key prefix of the looks at a held-out side."""
    return f"looks/{held_out}/"


def list_looks(store: ObjectStore, held_out: str) -> list[int]:
    """Return the numbers of the looks at a held-out side, from 1, ascending."""
    prefix = looks_prefix(held_out)
    names = (re.fullmatch(r"(\d{1,9})\.json", i.key[len(prefix) :]) for i in store.list(prefix))
    return sorted(int(found[1]) for found in names if found)


def digest_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of what the rows of a side say, in whatever order they stand."""
    said = sorted(to_digest({k: v for k, v in row.items() if k != "metadata"}) for row in rows)
    return to_digest(said)


def to_digest(value: Any) -> str:
    """Return the digest of a value of JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
