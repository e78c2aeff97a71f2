"""Read captured traffic from a store. Deleted answers never appear.

Every function takes a store rooted at ``<uri>/traffic/<namespace>/<endpoint>``; see
:func:`open_traffic`. Functions raise ``StorageError`` if the store fails.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from finetune_api.names import traffic_prefix
from finetune_trainer.errors import StorageError
from finetune_trainer.storage import (
    ObjectNotFound,
    ObjectStore,
    StorageAccess,
    join_uri,
    open_store,
)
from finetune_trainer.storage.parallel import in_parallel
from finetune_trainer.traffic.places import (
    DELETED,
    Segment,
    feedback_prefix,
    hour_prefix,
    id_of_entry,
    read_segment_key,
    read_user_key,
    time_of,
    time_of_entry,
    tombstone_of_id,
    tombstone_of_user,
    who_of_entry,
)
from finetune_trainer.traffic.rows import (
    Exchange,
    Feedback,
    latest_of_each,
    parse_feedback,
    parse_segment,
)

_HOUR = timedelta(hours=1)


def open_traffic(
    uri: str, namespace: str, endpoint: str, access: StorageAccess | None = None
) -> ObjectStore:
    """Open the traffic of an endpoint below ``capture.uri``.

    Raises:
        UserError: As :func:`open_store`.
    """
    return open_store(join_uri(uri, traffic_prefix(namespace, endpoint)), access)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What has been deleted.

    Attributes:
        answers: Keys of the tombstones of single answers.
        users: Until when the answers of a user have been deleted, all or those of one sender. Later
            answers stay.
    """

    answers: Set[str] = frozenset()
    users: Mapping[str, datetime] = field(default_factory=dict)

    def has(self, row: Exchange) -> bool:
        """Whether an answer has been deleted, by itself or with its user."""
        until = self.users.get(user_of_sender(row))
        is_of_sender = until is not None and row.time <= until
        return is_of_sender or self.covers(row.id, row.user, row.time)

    def covers(self, response_id: str, user: str | None, time: datetime) -> bool:
        """Whether an answer has been deleted that a user got at a time."""
        if self.has_id(response_id):
            return True
        until = None if user is None else self.users.get(user)
        return until is not None and time <= until

    def has_id(self, response_id: str) -> bool:
        """Whether an answer has been deleted by itself."""
        return tombstone_of_id(response_id) in self.answers


def read_deleted(store: ObjectStore) -> Deleted:
    """Return what has been deleted, by the names of the tombstones."""
    answers: set[str] = set()
    users: dict[str, datetime] = {}
    for info in store.list(DELETED):
        found = read_user_key(info.key)
        if found is None:
            answers.add(info.key)
        else:
            user, until = found
            users[user] = max(until, users.get(user, until))
    return Deleted(answers, users)


def user_of_sender(row: Exchange) -> str:
    """Return what stands in tombstones for a row's user, among the rows of its sender alone."""
    return f"{row.user}.{row.sender}"


def is_deleted(store: ObjectStore, row: Exchange) -> bool:
    """Whether an answer has been deleted; reads its own tombstones alone."""
    if store.exists(tombstone_of_id(row.id)):
        return True
    users = () if row.user is None else (row.user, user_of_sender(row))
    found = [latest_time(store, tombstone_of_user(user)) for user in users]
    return any(until is not None and row.time <= until for until in found)


def latest_time(store: ObjectStore, prefix: str) -> datetime | None:
    """Return the latest time in the keys of a user's tombstones, or of ended deletions."""
    found = (read_user_key(info.key) for info in store.list(prefix))
    return max((each[1] for each in found if each is not None), default=None)


def list_segments(
    store: ObjectStore, *, since: datetime | None = None, until: datetime | None = None
) -> list[Segment]:
    """Return the segments that may hold rows of this time (``until`` excluded), oldest first."""
    if since is not None and until is not None and until - since <= 2 * _HOUR:
        begin = since.replace(minute=0, second=0, microsecond=0)
        hours = [begin + number * _HOUR for number in range(4)]
        prefixes = [hour_prefix(hour) for hour in hours if hour < until]
    else:
        prefixes = ["segments/"]
    keys = (info.key for prefix in prefixes for info in store.list(prefix))
    segments = (segment for key in keys if (segment := read_segment_key(key)) is not None)
    second = timedelta(seconds=1)
    wanted = [
        segment
        for segment in segments
        if (since is None or segment.last + second > since)
        and (until is None or segment.first < until)
    ]
    return sorted(wanted, key=lambda segment: (segment.first, segment.key))


def read_segment(store: ObjectStore, key: str) -> list[Exchange]:
    """Return the rows of a segment; none if it has been deleted meanwhile.

    Raises:
        StorageError: ``DamagedSegment``: it is no segment.
    """
    try:
        data = store.read_bytes(key)
    except ObjectNotFound:
        return []
    try:
        return list(parse_segment(data))
    except ValueError as error:
        raise StorageError(
            "DamagedSegment",
            f"{join_uri(store.uri, key)} cannot be read: {error}. Delete this object.",
        ) from None


def read_exchanges(
    store: ObjectStore,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    segments: Iterable[Segment] | None = None,
) -> Iterator[Exchange]:
    """Yield each answer to a request from ``since`` before ``until`` once, by hours in their order.

    Args:
        store: As above.
        since: As above.
        until: As above.
        segments: Those to read, in order of time; by default all of this time.
    """
    deleted = read_deleted(store)
    seen: set[str] = set()
    hour = ""
    for segment in list_segments(store, since=since, until=until) if segments is None else segments:
        # A segment holds answers of one hour, so copies of an answer are of the same hour.
        if hour != hour_prefix(segment.first):
            hour = hour_prefix(segment.first)
            seen.clear()
        for row in read_segment(store, segment.key):
            is_wanted = (since is None or row.time >= since) and (until is None or row.time < until)
            if is_wanted and row.id not in seen and not deleted.has(row):
                seen.add(row.id)
                yield row


def find_exchange(store: ObjectStore, response_id: str) -> Exchange | None:
    """Return an answer; None if it was never captured, or has been deleted."""
    time = time_of(response_id)
    deleted: Deleted | None = None
    for segment in list_segments(store, since=time, until=time + timedelta(seconds=1)):
        for row in read_segment(store, segment.key):
            if row.id == response_id:
                deleted = deleted or read_deleted(store)
                return None if deleted.has(row) else row
    return None


def find_exchanges(store: ObjectStore, ids: Collection[str]) -> list[Exchange]:
    """Return the answers with these ids, in order of time.

    Those that were never captured, or have been deleted by the time of the return, are left out.
    Only segments that may hold one of them are read.
    """
    found: dict[str, Exchange] = {}
    times = sorted({time_of(each) for each in ids})
    if not times:
        return []
    for segment in list_segments(store, since=times[0], until=times[-1] + timedelta(seconds=1)):
        at = bisect_left(times, segment.first)
        if at < len(times) and times[at] <= segment.last:
            rows = read_segment(store, segment.key)
            found |= {row.id: row for row in rows if row.id in ids}
    deleted = read_deleted(store)
    kept = [row for row in found.values() if not deleted.has(row)]
    return sorted(kept, key=lambda row: (row.time, row.id))


def read_feedback(
    store: ObjectStore,
    ids: str = "",
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Feedback]:
    """Return the last entry of each person for each answer, oldest first.

    Args:
        store: As above.
        ids: A whole response id, or how the ids of the wanted answers begin. Entries for deleted
            answers are left out.
        since: Leave out answers before this time.
        until: Leave out answers and entries from this time on. Such an entry replaces none.
    """
    last: dict[tuple[str, str], str] = {}
    deleted = read_deleted(store)
    for info in store.list(feedback_prefix() + ids):
        whose = id_of_entry(info.key)
        if whose is None or deleted.has_id(whose):
            continue
        if since is not None and time_of(whose) < since:
            continue
        if until is not None and max(time_of(whose), time_of_entry(info.key)) >= until:
            continue
        # Somebody may have said something a thousand times: only the last entry is read.
        person = (whose, who_of_entry(info.key))
        if person not in last or time_of_entry(last[person]) <= time_of_entry(info.key):
            last[person] = info.key
    entries = in_parallel(partial(_read_entry, store), last.values())
    return latest_of_each(entry for entry in entries if entry is not None)


def _read_entry(store: ObjectStore, key: str) -> Feedback | None:
    """Return an entry; None if it was deleted since it was listed."""
    try:
        return parse_feedback(store.read_bytes(key))
    except ObjectNotFound:
        return None
    except ValueError as error:
        raise StorageError(
            "DamagedFeedback",
            f"{join_uri(store.uri, key)} cannot be read: {error}. Delete this object.",
        ) from None
