"""Answers that a monitor has drawn at random for people to score, and the entries that do so."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from finetune_trainer.storage import ObjectNotFound, ObjectStore
from finetune_trainer.traffic.rows import Feedback

OPEN_KEY = "monitor/open.json"
REVIEW = "review"
"""Field of an entry on an answer that its author was asked about, and did not choose."""
DRAWN = "drawn"


def read_open(store: ObjectStore) -> list[str]:
    """Return the ids of the answers that people are asked about and have not scored."""
    try:
        found = orjson.loads(store.read_bytes(OPEN_KEY))
    except (ObjectNotFound, ValueError):
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def write_open(store: ObjectStore, ids: Sequence[str]) -> None:
    """Keep these ids in place of the earlier ones."""
    store.write_bytes(OPEN_KEY, orjson.dumps(list(ids)))


def is_review(entry: Feedback) -> bool:
    """Whether the author of an entry was asked about the answer."""
    return (entry.metadata or {}).get(REVIEW) == DRAWN


def score_of(entry: Feedback) -> float | None:
    """Return the score that a reviewer gave: 1 for good, 0 for bad; None if there is none.

    A correction without a rating says that the answer was bad.
    """
    if entry.rating is None:
        return None if entry.correction is None else 0.0
    return float(entry.rating == "up")
