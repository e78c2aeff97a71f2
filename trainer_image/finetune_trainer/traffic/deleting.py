"""Delete captured traffic: by answer, by user, by age.

A tombstone is written first, so that no reader sees the answer from then on. Then its segments are
rewritten without it. Each rewriting takes out all that has been deleted, and is repeated until the
segment at rest holds none of it. So of two recorders that rewrite one segment, neither brings back
what the other has removed. All functions may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from finetune_trainer.errors import StorageError
from finetune_trainer.storage import ObjectStore, join_uri
from finetune_trainer.traffic.counting import keep_counts
from finetune_trainer.traffic.looks import purge_looks
from finetune_trainer.traffic.places import (
    PURGED,
    PURGING,
    Segment,
    feedback_prefix,
    id_of_entry,
    purged_of_user,
    read_id,
    read_segment_key,
    time_of,
    tombstone_of_id,
    tombstone_of_user,
)
from finetune_trainer.traffic.reading import (
    Deleted,
    latest_time,
    list_segments,
    read_deleted,
    read_segment,
)
from finetune_trainer.traffic.rows import write_exchange

MAX_ROUNDS = 20
_DAY = timedelta(days=1)
_CLOCK = "clock"


def mark_answer(store: ObjectStore, response_id: str) -> None:
    """Hide an answer from all readers."""
    store.write_bytes(PURGING + response_id, b"")
    store.write_bytes(tombstone_of_id(response_id), b"{}")


def delete_answer(store: ObjectStore, response_id: str) -> int:
    """Delete an answer and its feedback; return how many rows were removed."""
    mark_answer(store, response_id)
    time = time_of(response_id)
    within = list_segments(store, since=time, until=time + timedelta(seconds=1))
    num_removed = purge_segments(store, within, read_deleted(store))
    delete_feedback(store, [response_id])
    store.delete(PURGING + response_id)
    return num_removed


def unpurged_answers(store: ObjectStore) -> list[str]:
    """Return the ids of the answers whose deletion has begun and not ended."""
    found = [read_id(info.key.removeprefix(PURGING)) for info in store.list(PURGING)]
    return [each for each in found if each is not None]


def mark_user(store: ObjectStore, user: str, *, until: datetime) -> None:
    """Hide the answers that a user got up to a time from all readers.

    ``user`` is the keyed hash that rows have; with a dot and that of a sender behind it, the
    answers to this sender alone.
    """
    _replace(store, tombstone_of_user(user), tombstone_of_user(user, until))


def purge_user(store: ObjectStore, user: str) -> int:
    """Take out the hidden answers of a user; return how many rows were removed.

    Segments that an earlier call has rewritten are skipped.
    """
    # Read once: a listing while another call replaces the tombstone may miss both. Then nothing
    # may be recorded as purged.
    deleted = read_deleted(store)
    until = deleted.users.get(user)
    if until is None:
        return 0
    since = latest_time(store, purged_of_user(user))
    number = purge_segments(store, list_segments(store, since=since), deleted)
    _replace(store, purged_of_user(user), purged_of_user(user, until))
    return number


def delete_user(store: ObjectStore, user: str, *, until: datetime) -> int:
    """Do both."""
    mark_user(store, user, until=until)
    return purge_user(store, user)


def unpurged_users(store: ObjectStore) -> list[str]:
    """Return the users whose deletion has begun and not ended."""
    ended = {info.key for info in store.list(PURGED)}
    users = read_deleted(store).users
    return sorted(user for user, until in users.items() if purged_of_user(user, until) not in ended)


def _replace(store: ObjectStore, prefix: str, key: str) -> None:
    """Write an empty object, and delete those with an earlier time in their keys."""
    store.write_bytes(key, b"")
    # As numbers have equally many digits, keys have the order of times.
    for old in [info.key for info in store.list(prefix) if info.key < key]:
        store.delete(old)


def purge_segments(store: ObjectStore, segments: Iterable[Segment], deleted: Deleted) -> int:
    """Rewrite the segments that hold deleted answers.

    Feedback on these answers is deleted as well, and their ids in what a monitor has written.

    Returns:
        How many answers were removed.

    Raises:
        StorageError: ``DamagedSegment``: one could not be read. The others have been rewritten.
    """
    gone = set[str]()
    damaged: StorageError | None = None
    for segment in segments:
        try:
            removed = _purge(store, segment.key, deleted)
        except StorageError as error:
            if error.reason != "DamagedSegment":
                raise
            damaged = damaged or error
            continue
        gone |= removed
    purge_looks(store, lambda found, *whose: found in gone or deleted.covers(found, *whose))
    if damaged is not None:
        raise damaged
    return len(gone)


def _purge(store: ObjectStore, key: str, deleted: Deleted) -> set[str]:
    """Return the ids of the answers that were taken out."""
    removed: set[str] = set()
    for number in range(MAX_ROUNDS):
        if number:  # what was just written may have brought back what another has deleted since
            deleted = read_deleted(store)
        rows = read_segment(store, key)
        kept = [row for row in rows if not deleted.has(row)]
        if len(kept) == len(rows):
            return removed
        found = {row.id for row in rows if deleted.has(row)}
        removed |= found
        for row in rows:
            if row.id in found and not deleted.covers(row.id, row.user, row.time):
                # Others know an answer by its id and its user, and not by its sender.
                store.write_bytes(tombstone_of_id(row.id), b"{}")
        delete_feedback(store, found)  # first: without the row, nothing leads to it
        if kept:
            store.write_bytes(key, b"".join(map(write_exchange, kept)))
        else:
            store.delete(key)
    raise StorageError(
        "SegmentChanging",
        f"{join_uri(store.uri, key)} still holds deleted answers after {MAX_ROUNDS} rewritings. "
        "Find the other writer and delete again.",
    )


def delete_feedback(store: ObjectStore, ids: Iterable[str]) -> None:
    """Delete what people said of answers."""
    for response_id in ids:
        for info in list(store.list(feedback_prefix(response_id))):
            store.delete(info.key)


def delete_older(store: ObjectStore, before: datetime) -> int:
    """Delete the oldest day that lies wholly before a time, with its feedback; its counts stay.

    One day at a time: a clock that is wrong once deletes little.

    Returns:
        The number of deleted objects.
    """
    old: dict[datetime, list[str]] = {}
    for info in (*store.list("segments/"), *store.list(feedback_prefix())):
        segment, response_id = read_segment_key(info.key), id_of_entry(info.key)
        time = None if segment is None else segment.first
        if response_id is not None:
            time = time_of(response_id)
        if time is not None:
            day = time.replace(hour=0, minute=0, second=0, microsecond=0)
            old.setdefault(day, []).append(info.key)
    first = min(old, default=None)
    if first is None or first + _DAY > before:
        return 0
    keep_counts(store, first + _DAY)
    for key in old[first]:
        store.delete(key)
    return len(old[first])


def time_of_store(store: ObjectStore) -> datetime | None:
    """Return the time of the storage; None if it does not tell one."""
    store.write_bytes(_CLOCK, b"")
    return next((info.written for info in store.list(_CLOCK)), None)
