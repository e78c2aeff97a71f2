"""How much of the traffic one look reads, by the names of its segments. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from finetune_trainer.traffic.places import Segment

MAX_ANSWERS = 1_000_000
"""Answers of a look. They take some minutes."""


def choose_segments(
    segments: Sequence[Segment], max_answers: int
) -> tuple[Sequence[Segment], float]:
    """Return the segments that a look reads, and which share of all that is.

    All are read, or random ones where they have too many answers. A digest of its name says whether
    a segment is among them.
    """
    share = min(1.0, max_answers / max(1, sum(segment.num_rows for segment in segments)))
    return [segment for segment in segments if share == 1 or _draw(segment.key) < share], share


def _draw(key: str) -> float:
    """Return a number from 0 to 1 that is always the same for a name."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
