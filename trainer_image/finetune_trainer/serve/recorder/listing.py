"""Lists captured answers, newest first, from the spool and from object storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.drawn import is_review, read_open
from finetune_trainer.traffic.places import id_time, time_of
from finetune_trainer.traffic.reading import (
    Deleted,
    find_exchanges,
    list_segments,
    read_deleted,
    read_feedback,
    read_segment,
)
from finetune_trainer.traffic.rows import Exchange, Feedback

MAX_SEGMENTS = 300
"""Segments that are read for one page."""
_HOUR_CHARACTERS = 10
UNRATED = "none"


@dataclass(frozen=True, slots=True)
class Page:
    """Some answers with their feedback.

    Attributes:
        has_more: Whether older ones may follow.
    """

    rows: Sequence[tuple[Exchange, Sequence[Feedback]]]
    has_more: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which answers a list holds.

    Attributes:
        after: A response id; only older answers. None begins with the newest answer.
        wanted: Metadata that the answers' feedback must have. The rating ``none`` stands for
            answers that nobody has rated.
        reaches: Tells whether the asker may see an answer.
    """

    after: str | None
    wanted: Mapping[str, str]
    reaches: Callable[[Exchange], bool]

    def takes(self, row: Exchange) -> bool:
        """Whether the list may hold an answer, whatever its feedback is."""
        return (self.after is None or row.id < self.after) and self.reaches(row)


def list_page(
    store: ObjectStore, pending: Iterable[Exchange], choice: Choice, *, limit: int
) -> Page:
    """Return the newest answers of a choice.

    Args:
        store: The endpoint's traffic.
        pending: Answers that are not in the store yet.
        choice: Which answers.
        limit: Most answers of a page.
    """
    until = None if choice.after is None else time_of(choice.after) + timedelta(seconds=1)
    chosen = _Chosen(store, choice, read_deleted(store))
    chosen.take(pending)
    segments = sorted(list_segments(store, until=until), key=lambda each: each.last, reverse=True)
    for segment in segments[:MAX_SEGMENTS]:
        # Whatever this and further segments hold is older than their newest second.
        if chosen.count_newer(id_time(segment.last + timedelta(seconds=1))) > limit:
            break
        chosen.take(read_segment(store, segment.key))
    rows = sorted(chosen.rows.values(), key=lambda found: found[0].id, reverse=True)
    return Page(rows[:limit], has_more=len(rows) > limit or len(segments) > MAX_SEGMENTS)


def list_drawn(
    store: ObjectStore, pending: Iterable[Exchange], choice: Choice, *, limit: int
) -> Page:
    """Return answers that people are asked about and have not scored, newest first.

    Args:
        store: As above.
        pending: Not looked at: no answer is drawn before it is stored.
        choice: As above.
        limit: As above.
    """
    chosen = _Chosen(store, choice, read_deleted(store))
    chosen.take(
        row
        for row in find_exchanges(store, read_open(store))
        if not any(map(is_review, read_feedback(store, row.id)))
    )
    rows = sorted(chosen.rows.values(), key=lambda found: found[0].id, reverse=True)
    return Page(rows[:limit], has_more=len(rows) > limit)


class _Chosen:
    def __init__(self, store: ObjectStore, choice: Choice, deleted: Deleted) -> None:
        self._store = store
        self._choice = choice
        self._deleted = deleted
        self._entries: dict[str, dict[str, list[Feedback]]] = {}
        self.rows: dict[str, tuple[Exchange, Sequence[Feedback]]] = {}

    def take(self, rows: Iterable[Exchange]) -> None:
        for row in rows:
            if self._choice.takes(row) and not self._deleted.has(row):
                entries = self._entries_of(row)
                if self._has_wanted(entries):
                    self.rows[row.id] = (row, entries)

    def count_newer(self, begin: str) -> int:
        return sum(each >= begin for each in self.rows)

    def _entries_of(self, row: Exchange) -> list[Feedback]:
        hour = row.id[:_HOUR_CHARACTERS]
        if hour not in self._entries:
            found: dict[str, list[Feedback]] = {}
            for entry in read_feedback(self._store, hour):
                found.setdefault(entry.id, []).append(entry)
            self._entries[hour] = found
        return self._entries[hour].get(row.id, [])

    def _has_wanted(self, entries: Sequence[Feedback]) -> bool:
        last = entries[-1] if entries else None
        for name, value in self._choice.wanted.items():
            if name == "rating":
                found = (None if last is None else last.rating) or UNRATED
            else:
                found = ((None if last is None else last.metadata) or {}).get(name, "")
            if found != value:
                return False
        return True
