"""Count captured answers and feedback by the names of their objects, deleted days included.

Before a day is deleted, its counts are kept as the name of an empty object::

    counted/2026-11-30/1234-56

So the sums never fall when retention deletes a day, and two recorders write the same name.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from finetune_trainer.errors import StorageError
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.places import (
    feedback_prefix,
    hour_prefix,
    id_of_entry,
    read_segment_key,
    time_of,
    who_of_entry,
)

LIST_ALL_AFTER = timedelta(hours=1)
_HOUR = timedelta(hours=1)
_COUNTED = re.compile(r"counted/(\d{4}-\d\d-\d\d)/(\d+)-(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of answers, and of people's feedback on them: each person once for an answer."""

    rows: int = 0
    feedback: int = 0


class Tally:
    """Counts of one endpoint, of which each look lists only what may have changed.

    These are the hours and days that are still being filled, and those that were noted. All is
    listed again from time to time, because others may have stored something late. One thread looks
    at a time; any may note.
    """

    def __init__(self) -> None:
        self._rows = Counter[str]()
        """By folder of an hour."""
        self._people = Counter[str]()
        """By day."""
        self._kept: dict[str, Counts] = {}
        self._listed: datetime | None = None
        self._noted: set[datetime] = set()

    def note(self, time: datetime) -> None:
        """Remember that something about an answer of a time was stored."""
        self._noted.add(time)

    def look(self, store: ObjectStore, now: datetime) -> Counts:
        """Return the counts since the beginning.

        Raises:
            StorageError: The store failed. The noted hours are counted by the next call.
        """
        noted: set[datetime] = set()
        while self._noted:
            noted.add(self._noted.pop())
        try:
            if self._listed is None or now - self._listed >= LIST_ALL_AFTER:
                self._kept = _read_kept(store)
                self._rows = _count_rows(store, "segments/")
                self._people = _count_people(store, feedback_prefix())
                self._listed = now
            else:
                for prefix in {hour_prefix(each) for each in (now, now - _HOUR, *noted)}:
                    self._rows |= _count_rows(store, prefix)
                for day in {f"{each:%Y%m%d}" for each in (now, now - 24 * _HOUR, *noted)}:
                    self._people |= _count_people(store, feedback_prefix() + day)
        except StorageError:
            self._noted |= noted
            raise
        counted = [*self._kept.values()]
        counted += [each for day, each in self.days().items() if day not in self._kept]
        return Counts(sum(each.rows for each in counted), sum(each.feedback for each in counted))

    def days(self) -> dict[str, Counts]:
        """Return the counts of each day that was not deleted."""
        rows = Counter[str]()
        for folder, number in self._rows.items():
            rows[folder.split("/")[1]] += number
        days = rows.keys() | self._people.keys()
        return {day: Counts(rows[day], self._people[day]) for day in days}


def count_traffic(store: ObjectStore) -> Counts:
    """Return the counts since the beginning."""
    return Tally().look(store, datetime.now(UTC))


def keep_counts(store: ObjectStore, before: datetime) -> None:
    """Keep the counts of the days that are about to be deleted: those before a day."""
    tally = Tally()
    tally.look(store, before)
    kept = _read_kept(store)
    for day, counts in tally.days().items():
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


def _count_rows(store: ObjectStore, prefix: str) -> Counter[str]:
    rows = Counter[str]()
    for info in store.list(prefix):
        segment = read_segment_key(info.key)
        if segment is not None:
            rows[hour_prefix(segment.first)] += segment.num_rows
    return rows


def _count_people(store: ObjectStore, prefix: str) -> Counter[str]:
    people: set[tuple[str, str, str]] = set()
    for info in store.list(prefix):
        response_id = id_of_entry(info.key)
        if response_id is not None:
            day = f"{time_of(response_id):%Y-%m-%d}"
            people.add((day, response_id, who_of_entry(info.key)))
    return Counter(day for day, _, _ in people)
