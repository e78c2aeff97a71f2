"""How much of the traffic one look reads, by the names of its segments. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_trainer.traffic.places import Segment

MAX_ANSWERS = 1_000_000
"""Answers of a look. They take some minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """What a look reads.

    Attributes:
        end: Answers from this time on are left to the next look.
        segments: Those to read, oldest first.
    """

    end: datetime
    segments: Sequence[Segment]


def span_of_look(
    segments: Sequence[Segment],
    *,
    begin: datetime,
    end: datetime,
    every: timedelta,
    max_answers: int,
) -> Span:
    """Return what a look reads, so that it ends in time after an outage too.

    A look ends early rather than read too many answers. Where even the shortest look has too many,
    it reads random segments: a digest of its name says whether a segment is among them.

    Args:
        segments: All of this time, oldest first.
        begin: Of the look.
        end: The latest end of the look.
        every: Least length of a look.
        max_answers: Answers that may be read.
    """
    number = 0
    for segment in segments:
        number += segment.num_rows
        if number > max_answers:
            end = min(end, max(segment.first, begin + every))
            break
    within = [segment for segment in segments if segment.first < end]
    number = sum(segment.num_rows for segment in within)
    if number > max_answers:
        share = max_answers / number
        within = [segment for segment in within if _draw(segment.key) < share]
    return Span(end=end, segments=within)


def _draw(key: str) -> float:
    """Return a number from 0 to 1 that is always the same for a name."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
