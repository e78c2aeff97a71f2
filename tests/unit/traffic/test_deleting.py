"""What is deleted leaves the store, and no reader sees it from the tombstone on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.storage import ObjectInfo, ObjectStore
from finetune_trainer.traffic import deleting
from finetune_trainer.traffic.counting import Counts, count_traffic
from finetune_trainer.traffic.deleting import (
    delete_answer,
    delete_older,
    delete_user,
    mark_user,
    purge_segments,
    purge_user,
    unpurged_answers,
    unpurged_users,
)
from finetune_trainer.traffic.drawn import read_open, write_open
from finetune_trainer.traffic.places import (
    feedback_key,
    id_time,
    read_id,
    read_segment_key,
    segment_key,
    tombstone_of_id,
)
from finetune_trainer.traffic.reading import (
    Deleted,
    find_exchange,
    list_segments,
    open_traffic,
    read_deleted,
    read_exchanges,
    read_feedback,
)
from finetune_trainer.traffic.rows import Exchange, Feedback, write_exchange, write_feedback

TIME = datetime(2026, 11, 30, 4, 59, 58, 500000, tzinfo=UTC)


def row(number: int, time: datetime = TIME, user: str | None = None) -> Exchange:
    return Exchange(
        id=f"{id_time(time)}-{number:022d}-0123456789",
        time=time,
        endpoint="headline",
        version=1,
        sha256="a",
        request={"messages": []},
        answer={},
        latency_seconds=0.1,
        user=user,
    )


def entry(answer: Exchange, who: str = "ab", **fields: object) -> Feedback:
    made = Feedback(
        id=answer.id, time=TIME, endpoint="headline", version=1, sha256="a", who=who, rating="up"
    )
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_traffic(tmp_path.as_uri(), "team-a", "headline")


def put(store: ObjectStore, *rows: Exchange, writer: str = "w1") -> str:
    times = [each.time for each in rows]
    key = segment_key(min(times), max(times), num_rows=len(rows), writer=writer, number=1)
    store.write_bytes(key, b"".join(map(write_exchange, rows)))
    return key


def put_entries(store: ObjectStore, entries: Iterable[Feedback]) -> None:
    for each in entries:
        store.write_bytes(feedback_key(each), write_feedback(each))


def at_rest(store: ObjectStore) -> str:
    return " ".join(
        info.key + store.read_bytes(info.key).decode()
        for info in store.list()
        if not info.key.startswith("deleted/")
    )


def test_a_segment_tells_time_and_rows_by_its_name(store: ObjectStore) -> None:
    key = put(store, row(1), row(2, TIME + timedelta(seconds=1)))
    assert key == "segments/2026-11-30/04/5958-5959-2-w1-1.jsonl"
    segment = read_segment_key(key)
    assert segment is not None
    assert (segment.first, segment.num_rows) == (TIME.replace(microsecond=0), 2)
    assert read_segment_key("segments/2026-11-30/04/9958-5959-2-w1-1.jsonl") is None
    assert read_segment_key("feedback/x") is None


def test_an_id_is_read_as_clients_have_it() -> None:
    bare = row(1).id
    assert [read_id(f"{before}{bare}") for before in ("", "chatcmpl-", "cmpl-")] == [bare] * 3
    assert read_id(f"chatcmpl-{bare}-2") == bare
    assert read_id(f"../{bare}") is None
    assert read_id(bare.replace("2026", "9x")) is None
    assert read_id("99999999999999" + bare[14:]) is None


def test_rows_are_read_once_and_within_their_time(store: ObjectStore) -> None:
    later = row(3, TIME + timedelta(seconds=3))
    put(store, row(1), row(2))
    put(store, row(1), writer="w2")
    put(store, later)
    assert [each.id for each in read_exchanges(store)] == [row(1).id, row(2).id, later.id]
    assert [each.id for each in read_exchanges(store, since=later.time)] == [later.id]
    assert later.id not in {each.id for each in read_exchanges(store, until=later.time)}
    assert find_exchange(store, later.id) == later
    assert find_exchange(store, row(4).id) is None


def test_a_deleted_answer_leaves_nothing_and_others_stay(store: ObjectStore) -> None:
    put(store, row(1), row(2))
    alone = put(store, row(3, TIME + timedelta(hours=1)))
    put_entries(store, [entry(row(1)), entry(row(2))])
    for gone in (row(1), row(3, TIME + timedelta(hours=1))):
        delete_answer(store, gone.id)
        assert gone.id not in at_rest(store)
        assert find_exchange(store, gone.id) is None
    assert [each.id for each in read_exchanges(store)] == [row(2).id]
    assert [each.id for each in read_feedback(store)] == [row(2).id]
    assert not store.exists(alone)


def test_a_tombstone_alone_hides_an_answer_and_its_feedback(store: ObjectStore) -> None:
    put(store, row(1))
    put_entries(store, [entry(row(1))])
    store.write_bytes(tombstone_of_id(row(1).id), b"{}")
    assert list(read_exchanges(store)) == []
    assert find_exchange(store, row(1).id) is None
    assert read_feedback(store) == []
    assert purge_segments(store, list_segments(store), read_deleted(store)) == 1
    assert row(1).id not in at_rest(store)


def test_feedback_is_read_several_entries_at_a_time(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(number) for number in range(8)]
    put_entries(store, [entry(each) for each in rows])
    met, read = threading.Barrier(4), store.read_bytes

    def read_together(key: str) -> bytes:
        met.wait(timeout=30)  # breaks if fewer read at once
        return read(key)

    monkeypatch.setattr(store, "read_bytes", read_together)
    assert sorted(each.id for each in read_feedback(store)) == sorted(each.id for each in rows)


def test_a_deleted_user_leaves_nothing_but_what_comes_later(store: ObjectStore) -> None:
    old, other = row(1, user="alice"), row(2, user="bob")
    new = row(3, TIME + timedelta(days=1), user="alice")
    put(store, old, other)
    put(store, new)
    put_entries(store, [entry(old), entry(other)])
    assert delete_user(store, "alice", until=TIME) == 1
    assert old.id not in at_rest(store)
    assert [each.id for each in read_exchanges(store)] == [other.id, new.id]
    assert [each.id for each in read_feedback(store)] == [other.id]


class Fragile:
    """A store that fails before the next change of a kind: ``write_bytes`` or ``delete``."""

    def __init__(self, store: ObjectStore, change: str, num_good: int) -> None:
        self._store = store
        self._change = change
        self._num_good = num_good

    def __getattr__(self, name: str) -> object:
        if name == self._change:
            self._num_good -= 1
            if self._num_good < 0:
                raise StorageError("Unreachable", "away")
        return getattr(self._store, name)


@pytest.mark.parametrize(
    ("change", "num_good"),
    [*(("write_bytes", number) for number in (1, 2, 3)), ("delete", 0), ("delete", 1)],
)
def test_a_deletion_that_broke_off_is_known_and_a_second_one_ends_it(
    store: ObjectStore, change: str, num_good: int
) -> None:
    for number in range(3):
        time = TIME + number * timedelta(hours=1)
        old, other = row(number, time, user="alice"), row(7, time, user="bob")
        put(store, old, other)
        put_entries(store, [entry(old), entry(other)])
    until = TIME + timedelta(hours=3)
    with pytest.raises(StorageError):
        delete_user(Fragile(store, change, num_good), "alice", until=until)  # type: ignore[arg-type]
    assert {each.user for each in read_exchanges(store)} == {"bob"}
    assert unpurged_users(store) == ["alice"]
    purge_user(store, "alice")
    assert "alice" not in at_rest(store).replace("purged/alice", "")
    assert {each.id for each in read_feedback(store)} == {each.id for each in read_exchanges(store)}
    assert unpurged_users(store) == []


@pytest.mark.parametrize(
    ("change", "num_good"), [("write_bytes", 2), ("delete", 0), ("delete", 1), ("delete", 2)]
)
def test_a_deletion_of_an_answer_that_broke_off_is_known_until_it_ends(
    store: ObjectStore, change: str, num_good: int
) -> None:
    gone, other = row(1), row(2)
    put(store, gone, other)
    put_entries(store, [entry(gone), entry(gone, "cd"), entry(other)])
    with pytest.raises(StorageError):
        delete_answer(Fragile(store, change, num_good), gone.id)  # type: ignore[arg-type]
    assert [each.id for each in read_exchanges(store)] == [other.id]
    store.write_bytes("purging/no-id", b"")
    assert unpurged_answers(store) == [gone.id]
    delete_answer(store, gone.id)
    assert gone.id not in at_rest(store)
    assert unpurged_answers(store) == []


def test_a_second_deletion_of_a_user_reads_only_what_has_come_since(store: ObjectStore) -> None:
    put(store, row(1, user="alice"), row(2, user="bob"))
    later = TIME + timedelta(hours=5)
    delete_user(store, "alice", until=TIME + timedelta(minutes=1))
    put(store, row(3, later, user="alice"))
    counting = Counting(store)
    assert delete_user(counting, "alice", until=later) == 1  # type: ignore[arg-type]
    assert {key[:22] for key in counting.read} == {"segments/2026-11-30/09"}
    assert [each.user for each in read_exchanges(store)] == ["bob"]
    assert len(list(store.list("deleted/"))) == len(list(store.list("purged/"))) == 1


def test_a_deletion_up_to_a_moment_leaves_no_answer_of_this_moment(store: ObjectStore) -> None:
    moment = TIME + timedelta(microseconds=1)
    put(store, row(1, moment, user="alice"))
    delete_user(store, "alice", until=moment)
    assert row(1).id not in at_rest(store)
    assert unpurged_users(store) == []


def test_tombstones_tell_all_by_their_names(store: ObjectStore) -> None:
    for number in range(5):
        mark_user(store, f"user{number}", until=TIME + timedelta(seconds=number))
    counting = Counting(store)
    deleted = read_deleted(counting)  # type: ignore[arg-type]
    assert counting.read == []
    times = [TIME + timedelta(seconds=number) for number in (3, 4)]
    assert [deleted.has(row(1, time, user="user3")) for time in times] == [True, False]


class Counting:
    """A store that notes the objects that are read."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.read: list[str] = []
        self.listed: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def read_bytes(self, key: str) -> bytes:
        self.read.append(key)
        return self._store.read_bytes(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.listed.append(prefix)
        return self._store.list(prefix)


class Racing:
    """A store at which another recorder writes its own version of a segment, after the first."""

    def __init__(self, store: ObjectStore, theirs: bytes) -> None:
        self._store = store
        self._theirs: bytes | None = theirs

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self._store.write_bytes(key, data, if_absent=if_absent)
        if key.startswith("segments/") and self._theirs is not None:
            self._store.write_bytes(key, self._theirs)
            self._theirs = None


def test_a_rewriting_by_two_brings_nothing_back(store: ObjectStore) -> None:
    put(store, row(1), row(2), row(3))
    theirs = write_exchange(row(1)) + write_exchange(row(3))  # they took out the second
    store.write_bytes(tombstone_of_id(row(2).id), b"{}")
    delete_answer(Racing(store, theirs), row(1).id)  # type: ignore[arg-type]
    assert [each.id for each in read_exchanges(store)] == [row(3).id]
    assert row(1).id not in at_rest(store)
    assert row(2).id not in at_rest(store)


def test_a_listing_that_misses_a_tombstone_records_no_purge(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So does a listing of a folder while another call replaces the user's tombstone.
    put(store, row(1, user="alice"))
    mark_user(store, "alice", until=TIME)
    with monkeypatch.context() as blinded:
        blinded.setattr(deleting, "read_deleted", lambda store: Deleted())
        assert purge_user(store, "alice") == 0
    assert unpurged_users(store) == ["alice"]
    assert purge_user(store, "alice") == 1
    assert row(1).id not in at_rest(store)


def test_a_deletion_reads_the_tombstones_of_others_once(store: ObjectStore) -> None:
    for number in range(5):
        put(store, row(number, TIME + timedelta(hours=number), user="alice"))
        delete_user(store, f"other{number}", until=TIME)
    counting = Counting(store)
    assert delete_user(counting, "alice", until=TIME) == 1  # type: ignore[arg-type]
    assert counting.listed.count("deleted/") == 2  # again, because a segment went
    assert len(counting.read) == 5 + 1


def test_what_people_said_goes_before_the_row_that_leads_to_it(store: ObjectStore) -> None:
    put(store, row(1, user="alice"))
    put_entries(store, [entry(row(1))])

    class Stopped(Counting):
        def delete(self, key: str) -> None:
            if key.startswith("segments/"):
                raise StorageError("Unreachable", "away")
            store.delete(key)

    with pytest.raises(StorageError):
        delete_user(Stopped(store), "alice", until=TIME)  # type: ignore[arg-type]
    delete_user(store, "alice", until=TIME)
    assert row(1).id not in at_rest(store)


@pytest.mark.parametrize("by", ["answer", "user"])
def test_what_a_monitor_has_written_names_no_deleted_answer(store: ObjectStore, by: str) -> None:
    gone, kept = row(1, user="alice"), row(2, user="bob")
    put(store, gone, kept)
    names = [gone.id, kept.id]
    drawn = {"weeks": [{"answers": [[gone.id, "alice", 1.0, None], [kept.id, "bob", None, 0.5]]}]}
    store.write_bytes("monitor/quality.json", orjson.dumps(drawn))
    write_open(store, names)
    store.write_bytes("monitor/report.json", orjson.dumps({"examples": names, "logE": 1.5}))
    listed = "".join(f"<li><code>{name}</code></li>" for name in names)
    store.write_bytes("monitor/report.html", f"<h1>Über</h1>{listed}".encode())
    if by == "answer":
        delete_answer(store, gone.id)
    else:
        delete_user(store, "alice", until=TIME)
    assert gone.id not in at_rest(store)
    assert "alice" not in at_rest(store).replace("purged/alice", "")
    assert read_open(store) == [kept.id]
    (week,) = orjson.loads(store.read_bytes("monitor/quality.json"))["weeks"]
    assert week["answers"] == [[kept.id, "bob", None, 0.5]]
    report = orjson.loads(store.read_bytes("monitor/report.json"))
    assert report == {"examples": [kept.id], "logE": 1.5}
    page = store.read_bytes("monitor/report.html").decode()
    assert f"<h1>Über</h1><li><code>deleted</code></li><li><code>{kept.id}</code></li>" == page


def test_days_before_the_retention_go_with_their_feedback(store: ObjectStore) -> None:
    old, new = row(1, TIME - timedelta(days=31)), row(2)
    put(store, old)
    put(store, new)
    put_entries(store, [entry(old), entry(new)])
    put_entries(store, [entry(new, who="cd"), entry(new, time=TIME + timedelta(seconds=1))])
    assert count_traffic(store) == Counts(rows=2, feedback=3)
    assert delete_older(store, TIME - timedelta(days=30)) == 2
    assert delete_older(store, TIME - timedelta(days=30)) == 0
    assert old.id not in at_rest(store)
    assert find_exchange(store, new.id) == new
    assert {each.id for each in read_feedback(store)} == {new.id}
    assert count_traffic(store) == Counts(rows=2, feedback=3)


def test_one_day_is_deleted_at_a_time_the_oldest_first(store: ObjectStore) -> None:
    rows = [row(number, TIME - timedelta(days=number)) for number in (33, 32, 31)]
    for each in rows:
        put(store, each)
    before = TIME - timedelta(days=30)
    for left in (2, 1, 0):
        assert delete_older(store, before) == 1
        assert [each.id for each in read_exchanges(store)] == [each.id for each in rows[3 - left :]]


def test_of_many_entries_of_a_person_only_the_last_is_read(store: ObjectStore) -> None:
    put_entries(store, [entry(row(1), time=TIME + timedelta(seconds=n)) for n in range(9)])
    put_entries(store, [entry(row(1), who="cd"), entry(row(2))])
    counting = Counting(store)
    entries = read_feedback(counting)  # type: ignore[arg-type]
    last = TIME + timedelta(seconds=8)
    assert {(each.id, each.who, each.time) for each in entries} == {
        (row(1).id, "ab", last),
        (row(1).id, "cd", TIME),
        (row(2).id, "ab", TIME),
    }
    assert len(counting.read) == 3


def test_a_damaged_segment_is_named(store: ObjectStore) -> None:
    key = put(store, row(1))
    store.write_bytes(key, b"{}\n")
    with pytest.raises(StorageError, match=r"line 1: id is .*Delete this object") as caught:
        list(read_exchanges(store))
    assert caught.value.reason == "DamagedSegment"


def test_a_damaged_segment_does_not_keep_the_others(store: ObjectStore) -> None:
    damaged, whole = put(store, row(1, user="alice")), put(store, row(2, user="alice"), writer="w2")
    store.write_bytes(damaged, b"{}\n")
    mark_user(store, "alice", until=row(2).time)
    with pytest.raises(StorageError) as caught:
        purge_user(store, "alice")
    assert caught.value.reason == "DamagedSegment"
    assert not store.exists(whole)
    assert unpurged_users(store) == ["alice"]
    store.delete(damaged)
    purge_user(store, "alice")
    assert unpurged_users(store) == []
