"""Where captured traffic lies in object storage, and what its names tell. Pure.

Below ``<uri>/traffic/<namespace>/<endpoint>``::

    segments/2026-11-30/04/0029-0044-17-<writer>-<number>.jsonl
    feedback/<response id>/<time>-<who>.json
    deleted/<sha256 of a response id>
    deleted/user-<keyed hash of a user>-<time>
    purged/<keyed hash of a user>-<time>
    purging/<response id>
    people/<time>-<random>

A segment is named by the minute and second of its first and last request, and by its number of
rows. So answers are found and counted without reading other segments.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from finetune_trainer.traffic.rows import Feedback

_EPOCH = datetime.fromtimestamp(0, UTC)
_ID_TIME = "%Y%m%d%H%M%S"
_ID = re.compile(r"(?:chatcmpl-|cmpl-)?(\d{14}-[A-Za-z0-9_]{22}-[0-9a-f]{10})(?:-\d{1,2})?\Z")
_SEGMENT = re.compile(
    r"segments/(\d{4}-\d\d-\d\d)/(\d\d)/(\d\d)(\d\d)-(\d\d)(\d\d)-(\d+)-[0-9a-z]+-\d+\.jsonl\Z"
)
_USER = re.compile(r"(?:deleted/user-|purged/)(.+)-(\d{1,14})\Z")
_ENTRY = re.compile(r"feedback/([^/]+)/(\d{1,14})-([0-9a-f]+)\.json\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A segment, as its name describes it.

    Attributes:
        key: In the endpoint's store.
        first: Time of its oldest row, in whole seconds.
        last: Time of its newest row, rounded down to whole seconds.
    """

    key: str
    first: datetime
    last: datetime
    num_rows: int


def read_id(given: str) -> str | None:
    """Return a response id as rows have it; None if it has not the shape of one.

    Clients may send it as they got it: ``chatcmpl-<id>``, or ``chatcmpl-<id>-2`` where the front
    asked a server again.
    """
    found = _ID.match(given)
    if found is None:
        return None
    try:
        time_of(found.group(1))
    except ValueError:
        return None
    return found.group(1)


def time_of(response_id: str) -> datetime:
    """Return when a request came, in whole seconds.

    Raises:
        ValueError: The id does not begin with a time.
    """
    return datetime.strptime(response_id[:14], _ID_TIME).replace(tzinfo=UTC)


def id_time(time: datetime) -> str:
    """Return the beginning of a response id."""
    return time.strftime(_ID_TIME)


def hour_prefix(time: datetime) -> str:
    """Return the folder of the segments of an hour."""
    return time.strftime("segments/%Y-%m-%d/%H/")


def segment_key(first: datetime, last: datetime, *, num_rows: int, writer: str, number: int) -> str:
    """Return the key of a segment; both times are of one hour."""
    span = f"{first:%M%S}-{last:%M%S}"
    return f"{hour_prefix(first)}{span}-{num_rows}-{writer}-{number}.jsonl"


def read_segment_key(key: str) -> Segment | None:
    """Return what the key of a segment tells; None for another object."""
    found = _SEGMENT.match(key)
    if found is None:
        return None
    day, hour, *rest = found.groups()
    minute, second, last_minute, last_second, num_rows = map(int, rest)
    try:
        begin = datetime.fromisoformat(f"{day}T{hour}:00:00+00:00")
        return Segment(
            key=key,
            first=begin.replace(minute=minute, second=second),
            last=begin.replace(minute=last_minute, second=last_second),
            num_rows=num_rows,
        )
    except ValueError:
        return None


def feedback_prefix(response_id: str = "") -> str:
    """Return the folder of an answer's feedback, or of all feedback."""
    return f"feedback/{response_id}/" if response_id else "feedback/"


def feedback_key(entry: Feedback) -> str:
    """Return the key of an entry."""
    return f"{feedback_prefix(entry.id)}{_milliseconds(entry.time)}-{entry.who}.json"


def id_of_entry(key: str) -> str | None:
    """Return the response id in the key of an entry; None for another object."""
    found = _ENTRY.match(key)
    return None if found is None else read_id(found.group(1))


def who_of_entry(key: str) -> str:
    """Return who wrote an entry, by its key; empty for another object."""
    found = _ENTRY.match(key)
    return "" if found is None else found.group(3)


def time_of_entry(key: str) -> datetime:
    """Return when an entry was written, by its key; the year 1970 for another object."""
    found = _ENTRY.match(key)
    return _from_milliseconds(0 if found is None else int(found.group(2)))


DELETED = "deleted/"
"""Folder of the tombstones."""
USERS_DELETED = f"{DELETED}user-"
"""How the keys of users' tombstones begin."""
PURGED = "purged/"
"""Folder of the objects that tell which deletions of users have ended."""

PEOPLE = "people/"
"""Folder of the keys that people are hashed with. Only recorders read it."""
PURGING = "purging/"
"""Folder of the objects that tell which deletions of single answers have not ended."""


def tombstone_of_id(response_id: str) -> str:
    """Return the key of the tombstone of an answer."""
    return DELETED + hashlib.sha256(response_id.encode()).hexdigest()


def tombstone_of_user(user: str, until: datetime | None = None) -> str:
    """Return the key of the tombstone of a user's answers up to a time.

    Without a time it is how the keys of all tombstones of the user begin. ``user`` is the keyed
    hash.
    """
    return f"{USERS_DELETED}{user}-" + ("" if until is None else _milliseconds_up(until))


def purged_of_user(user: str, until: datetime | None = None) -> str:
    """Return the key of the object which says that the answers up to a time are gone.

    Without a time it is how the keys of all such objects of the user begin.
    """
    return f"{PURGED}{user}-" + ("" if until is None else _milliseconds_up(until))


def read_user_key(key: str) -> tuple[str, datetime] | None:
    """Return user and time in a key of either kind; None for another object."""
    found = _USER.match(key)
    return None if found is None else (found.group(1), _from_milliseconds(int(found.group(2))))


def _milliseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _milliseconds_up(time: datetime) -> str:
    """Round up, so that an answer of the last moment is not left out."""
    return str(_milliseconds(time + timedelta(microseconds=999)))


def _from_milliseconds(number: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=number)
