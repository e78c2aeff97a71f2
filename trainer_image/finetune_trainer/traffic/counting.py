"""Count captured answers and feedback by the names of their objects, deleted days included.

Before a day is deleted, its counts are kept as the name of an empty object::

    counted/2026-11-30/1234-56

So the sums never fall when retention deletes a day, and two recorders write the same name.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.places import (
    feedback_prefix,
    id_of_entry,
    read_segment_key,
    time_of,
    who_of_entry,
)

_COUNTED = re.compile(r"counted/(\d{4}-\d\d-\d\d)/(\d+)-(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of answers, and of people's feedback on them: each person once for an answer."""

    rows: int = 0
    feedback: int = 0


def count_traffic(store: ObjectStore) -> Counts:
    """Return the counts since the beginning."""
    kept = _read_kept(store)
    days = _count_days(store)
    counted = [*kept.values(), *(each for day, each in days.items() if day not in kept)]
    return Counts(sum(each.rows for each in counted), sum(each.feedback for each in counted))


def keep_counts(store: ObjectStore, before: datetime) -> None:
    """Keep the counts of the days that are about to be deleted: those before a day."""
    kept = _read_kept(store)
    for day, counts in _count_days(store).items():
        if day < before.strftime("%Y-%m-%d") and day not in kept:
            store.write_bytes(f"counted/{day}/{counts.rows}-{counts.feedback}", b"")


def _read_kept(store: ObjectStore) -> dict[str, Counts]:
    kept: dict[str, Counts] = {}
    for info in store.list("counted/"):
        found = _COUNTED.match(info.key)
        if found is not None:
            counts = Counts(int(found.group(2)), int(found.group(3)))
            # Of two recorders one may have begun to delete: the larger counts are whole.
            kept[found.group(1)] = max(counts, kept.get(found.group(1), Counts()), key=_size)
    return kept


def _size(counts: Counts) -> tuple[int, int]:
    return counts.rows, counts.feedback


def _count_days(store: ObjectStore) -> dict[str, Counts]:
    rows, people = Counter[str](), set[tuple[str, str, str]]()
    for info in store.list("segments/"):
        segment = read_segment_key(info.key)
        if segment is not None:
            rows[f"{segment.first:%Y-%m-%d}"] += segment.num_rows
    for info in store.list(feedback_prefix()):
        response_id = id_of_entry(info.key)
        if response_id is not None:
            day = f"{time_of(response_id):%Y-%m-%d}"
            people.add((day, response_id, who_of_entry(info.key)))
    feedback = Counter(day for day, _, _ in people)
    return {day: Counts(rows[day], feedback[day]) for day in rows.keys() | feedback.keys()}
