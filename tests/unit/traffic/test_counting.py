"""Counts of captured answers, and what is listed for them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.storage import ObjectInfo, ObjectStore
from finetune_trainer.traffic.counting import Counts, Tally
from finetune_trainer.traffic.deleting import delete_older
from finetune_trainer.traffic.places import feedback_key, id_time, segment_key
from finetune_trainer.traffic.reading import open_traffic
from finetune_trainer.traffic.rows import Feedback

NOW = datetime(2026, 11, 30, 4, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Listed:
    """A store that notes what is listed, and fails if told so."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.prefixes: list[str] = []
        self.is_away = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if self.is_away:
            raise StorageError("Unreachable", "away")
        self.prefixes.append(prefix)
        return self._store.list(prefix)

    def put(self, time: datetime, *, num_rows: int, number: int = 1) -> None:
        key = segment_key(time, time, num_rows=num_rows, writer="w", number=number)
        self._store.write_bytes(key, b"")

    def rate(self, time: datetime, who: str = "ab") -> None:
        made = Feedback(
            id=f"{id_time(time)}-{1:022}-0123456789",
            time=NOW, endpoint="e", version=1, sha256="", who=who,
        )  # fmt: skip
        self._store.write_bytes(feedback_key(made), b"{}")


@pytest.fixture
def store(tmp_path: Path) -> Listed:
    made = Listed(open_traffic(tmp_path.as_uri(), "team-a", "headline"))
    for days in range(5):
        made.put(NOW - days * 24 * HOUR, num_rows=10)
        made.rate(NOW - days * 24 * HOUR)
    return made


def look(tally: Tally, store: Listed, now: datetime = NOW) -> Counts:
    return tally.look(store, now)  # type: ignore[arg-type]


def test_a_second_look_lists_only_what_is_still_being_filled(store: Listed) -> None:
    tally = Tally()
    assert look(tally, store) == Counts(rows=50, feedback=5)
    store.prefixes.clear()
    store.put(NOW + HOUR / 4, num_rows=3)
    store.put(NOW - HOUR, num_rows=4)
    store.rate(NOW, who="cd")
    store.rate(NOW - 24 * HOUR, who="cd")
    assert look(tally, store, NOW + HOUR / 3) == Counts(rows=57, feedback=7)
    assert sorted(store.prefixes) == [
        *("feedback/20261129", "feedback/20261130"),
        *("segments/2026-11-30/03/", "segments/2026-11-30/04/"),
    ]


def test_what_comes_late_counts_at_once_if_it_is_noted_and_else_within_an_hour(
    store: Listed,
) -> None:
    tally, old = Tally(), NOW - 72 * HOUR
    look(tally, store)
    store.put(old, num_rows=5, number=2)
    store.rate(old, who="cd")
    assert look(tally, store) == Counts(rows=50, feedback=5)
    tally.note(old)
    store.is_away = True
    with pytest.raises(StorageError):
        look(tally, store)
    store.is_away = False
    assert look(tally, store) == Counts(rows=55, feedback=6)
    store.put(old, num_rows=1, number=3)
    assert look(tally, store, NOW + HOUR / 2) == Counts(rows=55, feedback=6)
    assert look(tally, store, NOW + HOUR) == Counts(rows=56, feedback=6)


def test_counts_stay_while_and_after_days_are_deleted(store: Listed) -> None:
    tally = Tally()
    look(tally, store)
    days = iter(lambda: delete_older(store, NOW - 48 * HOUR), 0)  # type: ignore[arg-type]
    assert sum(days) == 4
    for hours in (0, 1, 2):
        assert look(tally, store, NOW + hours * HOUR) == Counts(rows=50, feedback=5)
