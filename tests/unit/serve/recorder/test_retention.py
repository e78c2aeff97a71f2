"""Rows on their way to object storage, where some of it is away or has moved."""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from finetune_trainer.errors import StorageError
from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.recorder import retention
from finetune_trainer.serve.recorder.metrics import Metrics
from finetune_trainer.serve.recorder.people import Keyring
from finetune_trainer.serve.recorder.places import read_places
from finetune_trainer.serve.recorder.retention import Keeper
from finetune_trainer.serve.recorder.spool import Spool
from finetune_trainer.storage import ObjectInfo, ObjectStore
from finetune_trainer.storage.local import FileStore
from finetune_trainer.traffic.deleting import delete_answer, delete_user, mark_user
from finetune_trainer.traffic.places import id_time
from finetune_trainer.traffic.reading import (
    find_exchange,
    list_segments,
    read_deleted,
    read_exchanges,
    read_segment,
)
from finetune_trainer.traffic.rows import Exchange
from kit.processes.eventually import eventually_async
from kit.servers.running_front import endpoint, served
from kit.servers.running_recorder import capture

TIME = datetime(2026, 11, 30, 4, tzinfo=UTC)


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return keeper_of(tmp_path / "spool")


def keeper_of(folder: Path, token: str = "token") -> Keeper:
    people = Keyring(folder, lambda: token)
    return Keeper(Spool(folder), people, Metrics(CollectorRegistry()), None)


def follow(keeper: Keeper, **folders: Path) -> None:
    """Have endpoints capture into these folders."""
    made = {
        name: endpoint(served(1, 1), name=name, capture=capture(folder))
        for name, folder in folders.items()
    }
    keeper.follow(read_places(made))


def row(
    number: int, name: str = "headline", *, user: str | None = None, time: datetime = TIME
) -> Exchange:
    return Exchange(
        id=f"{id_time(time)}-{number:022}-0123456789",
        time=time,
        user=user,
        endpoint=name,
        version=1,
        sha256="",
        request={},
        answer={},
        latency_seconds=0.1,
    )


def test_places_may_change_while_threads_open_their_stores(keeper: Keeper, tmp_path: Path) -> None:
    folders = {f"endpoint{number}": tmp_path / str(number) for number in range(50)}
    follow(keeper, **folders)
    places = list(keeper.places.values())
    failures: list[Exception] = []
    is_over = threading.Event()

    def open_stores() -> None:
        while not is_over.is_set():
            try:
                for place in places:
                    keeper.store_of(place)
            except Exception as error:
                failures.append(error)
                return

    switch_interval = sys.getswitchinterval()
    thread = threading.Thread(target=open_stores)
    thread.start()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(80):
            keeper.follow({place.endpoint: place for place in places[number % 50 :]})
    finally:
        sys.setswitchinterval(switch_interval)
        is_over.set()
        thread.join()
    assert failures == []


async def test_storage_that_is_away_is_tried_once_and_others_do_not_wait_for_it(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    write = FileStore.write_bytes

    def refuse(self: FileStore, key: str, data: bytes, *, if_absent: bool = False) -> None:
        tried.append(self.uri)
        if "/gone/" in self.uri:
            raise StorageError("Unreachable", "away")
        write(self, key, data, if_absent=if_absent)

    monkeypatch.setattr(FileStore, "write_bytes", refuse)
    follow(keeper, lost=tmp_path / "gone", kept=tmp_path / "there")
    for number, name in enumerate(("lost", "lost", "lost", "kept")):
        keeper.spool.add([row(number, name)], 0.0)
        keeper.spool.close_older(1.0)
    assert not await keeper.store_all()
    assert len(tried) == 2
    assert len(list_segments(keeper.store_of(keeper.places["kept"]))) == 1
    assert {file.endpoint for file in keeper.spool.files} == {"lost"}


async def test_what_nobody_can_read_in_one_endpoints_storage_holds_up_no_other(
    keeper: Keeper, tmp_path: Path
) -> None:
    follow(keeper, spoilt=tmp_path / "spoilt", kept=tmp_path / "kept")
    spoilt, kept = (keeper.places[name] for name in ("spoilt", "kept"))
    keeper.store_of(spoilt).write_bytes("people/20261201000000-aabb", b"\xff\xfe")
    for number, name in enumerate(("spoilt", "kept")):
        keeper.spool.add([row(number, name)], 0.0)
    assert not await keeper.store_all()
    assert len(list_segments(keeper.store_of(kept))) == 1
    assert {file.endpoint for file in keeper.spool.files} == {"spoilt"}
    for place in (spoilt, kept):
        await keeper.sweep(place)
        await keeper.count(place)
    assert kept in keeper.counts


def test_an_endpoint_whose_storage_stays_away_leaves_others_their_room(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(keeper, lost=tmp_path / "gone", kept=tmp_path / "there")
    monkeypatch.setattr("finetune_trainer.serve.recorder.spool.MAX_BYTES", 3000)
    number = 0
    while keeper.has_room("lost"):
        keeper.spool.add([row(number := number + 1, "lost")], 0.0)
    assert keeper.has_room("kept")
    assert not keeper.spool.is_full


async def test_an_answer_that_was_deleted_while_it_waited_for_hours_is_not_kept(
    keeper: Keeper, tmp_path: Path
) -> None:
    follow(keeper, headline=tmp_path / "there")
    store = keeper.store_of(keeper.places["headline"])
    keeper.spool.add([row(1, "headline"), row(2, "headline")], 0.0)
    delete_answer(store, row(1, "headline").id)  # by another recorder: the answer waits here
    assert await keeper.store_all()
    (segment,) = list_segments(store)
    assert [each.id for each in read_segment(store, segment.key)] == [row(2, "headline").id]


@settings(max_examples=25, deadline=None)
@given(minutes=st.lists(st.integers(-3000, 3000), min_size=1, max_size=12))
def test_rows_of_a_clock_that_jumps_are_stored_once_and_found_by_their_time(
    minutes: list[int],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keeper = keeper_of(folder / "spool")
        follow(keeper, headline=folder / "there")
        rows = []
        for number, minute in enumerate(minutes):
            time = TIME + timedelta(minutes=minute)
            named = f"{id_time(time)}-{number:022}-0123456789"
            rows.append(replace(row(number, "headline"), id=named, time=time))
            keeper.spool.add(rows[-1:], float(number))
            if number % 3 == 0:
                asyncio.run(keeper.store_all())
        assert asyncio.run(keeper.store_all())
        store = keeper.store_of(keeper.places["headline"])
        assert sum(segment.num_rows for segment in list_segments(store)) == len(rows)
        found = {each.id: each for each in read_exchanges(store)}
        assert found == {each.id: each for each in rows}
        for each in rows:
            assert find_exchange(store, each.id) == each
            second = timedelta(seconds=1)
            within = read_exchanges(store, since=each.time, until=each.time + second)
            assert each.id in {near.id for near in within}


async def test_a_row_that_a_full_disk_has_cut_takes_no_other_with_it(
    keeper: Keeper, tmp_path: Path
) -> None:
    follow(keeper, headline=tmp_path / "there")
    spool, rows = keeper.spool, [row(number, "headline") for number in range(4)]
    spool.add(rows[:1], 0.0)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = spool.files[0].path.stat().st_size + 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, usual[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            spool.add(rows[1:], 0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert spool.files[0].path.stat().st_size == room
    spool.add(rows[1:], 0.0)  # the front sends its batch again
    assert await keeper.store_all()
    store = keeper.store_of(keeper.places["headline"])
    assert {each.id for each in read_exchanges(store)} == {each.id for each in rows}


async def test_counts_are_forgotten_when_the_place_changes(keeper: Keeper, tmp_path: Path) -> None:
    follow(keeper, headline=tmp_path / "before")
    await keeper.count(keeper.places["headline"])
    assert list(keeper.counts) == [keeper.places["headline"]]
    follow(keeper, headline=tmp_path / "after")
    assert not keeper.counts


def spool(keeper: Keeper, *rows: Exchange) -> None:
    """Take rows and close their files."""
    keeper.spool.add(rows, 0.0)
    keeper.spool.close_older(1.0)


def stored_users(keeper: Keeper) -> set[str | None]:
    """Return whose rows are at rest, hidden ones included."""
    store = keeper.store_of(keeper.places["headline"])
    return {each.user for part in list_segments(store) for each in read_segment(store, part.key)}


async def test_rows_are_stored_while_the_answers_of_a_user_are_deleted(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(keeper, headline=tmp_path)
    place = keeper.places["headline"]
    spool(keeper, row(1, user="alice"))
    assert await keeper.store_all()
    spool(keeper, row(2, user="alice"), row(3, user="bob"))
    may_end, purge = threading.Event(), retention.purge_user

    def purge_slowly(store: ObjectStore, user: str) -> int:
        may_end.wait()
        return purge(store, user)

    monkeypatch.setattr(retention, "purge_user", purge_slowly)
    monkeypatch.setattr(retention, "DELETING_SECONDS", 0.01)
    try:
        async with asyncio.timeout(60):
            for _ in range(40):  # the common pool has fewer threads
                with pytest.raises(Refused, match="deletion_running"):
                    await keeper.delete_user(place, "alice")
            spool(keeper, row(4, user="carol"))
            assert await keeper.store_all()
            read = await keeper.ask(lambda store: [*read_exchanges(store)], place)
            assert {each.user for each in read} == {"bob", "carol"}
        assert stored_users(keeper) == {"alice", "bob", "carol"}
    finally:
        may_end.set()
    monkeypatch.setattr(retention, "DELETING_SECONDS", 60)
    await keeper.delete_user(place, "alice")
    assert stored_users(keeper) == {"bob", "carol"}


async def test_clients_who_gave_up_still_hold_the_threads_that_work_for_them(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_ASKED", 2)
    follow(keeper, headline=tmp_path)
    place, may_end = keeper.places["headline"], threading.Event()
    try:
        monkeypatch.setattr(retention, "ASKING_SECONDS", 0.01)
        for _ in range(2):
            with pytest.raises(Refused, match="storage_failed"):
                await keeper.ask(lambda _: may_end.wait(), place)
        monkeypatch.setattr(retention, "ASKING_SECONDS", 60)
        with pytest.raises(Refused, match="storage_busy") as caught:
            await keeper.ask(lambda _: None, place)
        assert caught.value.response().headers["Retry-After"]
    finally:
        may_end.set()

    async def is_answered() -> bool:
        return await keeper.ask(lambda _: True, place)

    await eventually_async(is_answered)


async def test_what_the_front_hands_over_after_a_deletion_is_no_row(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(keeper, headline=tmp_path)
    monkeypatch.setattr(retention, "now", lambda: TIME)
    await keeper.delete_user(keeper.places["headline"], "alice")
    later = TIME + timedelta(seconds=1)
    given = [row(1, user="alice"), row(2, user="bob"), row(3, user="alice", time=later), row(4)]
    spool(keeper, *given)
    assert await keeper.store_all()
    store = keeper.store_of(keeper.places["headline"])
    (segment,) = list_segments(store)
    assert read_segment(store, segment.key) == given[1:]


@pytest.mark.parametrize("hours", [0, 5])
async def test_a_deletion_that_broke_off_is_ended_whatever_comes_late(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    follow(keeper, headline=tmp_path)
    place = keeper.places["headline"]
    store = keeper.store_of(place)
    spool(keeper, row(1, user="alice"), row(2, user="bob"))
    assert await keeper.store_all()
    spool(keeper, row(3, user="alice"))
    mark_user(store, "alice", until=TIME + timedelta(seconds=1))
    monkeypatch.setattr(retention, "now", lambda: TIME + timedelta(hours=hours))
    if hours:
        await keeper.sweep(place)
        assert stored_users(keeper) == {"bob"}
    assert await keeper.store_all()
    if not hours:
        await keeper.sweep(place)
    assert stored_users(keeper) == {"bob"}


async def test_deletion_takes_rows_out_of_files_that_are_being_filled(
    keeper: Keeper, tmp_path: Path
) -> None:
    follow(keeper, headline=tmp_path)
    place = keeper.places["headline"]
    keeper.spool.add([row(1, user="alice"), row(2, user="bob")], 0.0)
    await keeper.delete_user(place, "alice")
    keeper.spool.add([row(3, user="bob")], 0.0)
    assert {each.user for each in keeper.spool.rows_of("headline")} == {"bob"}
    await keeper.delete_answer(place, row(2).id)
    assert [each.id for each in keeper.spool.rows_of("headline")] == [row(3).id]
    assert await keeper.store_all()
    assert not keeper.spool.files


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("by", ["answer", "user"])
async def test_a_row_that_is_deleted_elsewhere_while_it_is_stored_is_not_kept(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, by: str
) -> None:
    follow(keeper, headline=tmp_path)
    store = keeper.store_of(keeper.places["headline"])
    gone, other = row(1, user="alice"), row(2, user="bob")
    spool(keeper, gone, other)
    write = FileStore.write_bytes

    def delete() -> None:
        monkeypatch.setattr(FileStore, "write_bytes", write)
        if by == "answer":
            delete_answer(store, gone.id)
        else:
            delete_user(store, "alice", until=TIME)

    def write_meanwhile(self: FileStore, key: str, data: bytes, **options: bool) -> None:
        if moment == "before":
            delete()
        write(self, key, data, **options)
        if moment == "after":
            delete()

    monkeypatch.setattr(FileStore, "write_bytes", write_meanwhile)
    assert await keeper.store_all()
    assert stored_users(keeper) == {"bob"}


async def test_deletions_at_once_and_a_sweep_between_them_leave_nothing(
    keeper: Keeper, tmp_path: Path
) -> None:
    follow(keeper, headline=tmp_path)
    place, begin = keeper.places["headline"], retention.now() - timedelta(minutes=2)
    store = keeper.store_of(place)
    users = ["alice", "bob", "carol"]
    for number in range(9):
        keeper.spool.add([row(number, user=users[number % 3], time=begin)], 0.0)
        if number % 4 == 3:
            assert await keeper.store_all()
    last = row(8, user="carol", time=begin)
    (stored,) = [each.id for each in read_exchanges(store) if each.id == row(2, time=begin).id]
    await asyncio.gather(
        keeper.delete_user(place, "alice"),
        keeper.sweep(place),
        keeper.delete_user(place, "alice"),
        keeper.delete_answer(place, last.id),
        keeper.store_all(),
        keeper.delete_answer(place, stored),
        keeper.delete_user(place, "bob"),
    )
    assert await keeper.store_all()
    kept = [read_segment(store, part.key) for part in list_segments(store)]
    assert [each.id for rows in kept for each in rows] == [row(5, time=begin).id]
    assert not list(store.list("purging/"))


async def test_an_answer_whose_deletion_broke_off_goes_with_the_next_sweep(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(keeper, headline=tmp_path)
    place = keeper.places["headline"]
    spool(keeper, row(1, user="alice"), row(2, user="bob"))
    assert await keeper.store_all()

    def refuse(self: FileStore, key: str) -> None:
        raise StorageError("Unreachable", "away")

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "delete", refuse)
        for each in (row(1), row(2)):
            with pytest.raises(Refused, match="storage_failed"):
                await keeper.delete_answer(place, each.id)
    monkeypatch.setattr(retention, "now", lambda: TIME + timedelta(hours=9))
    await keeper.sweep(place)
    assert stored_users(keeper) == set()


async def test_a_storage_that_hangs_takes_half_of_the_threads_and_deletions(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "DELETING_SECONDS", 0.01)
    follow(keeper, headline=tmp_path / "a", other=tmp_path / "b")
    place, other, may_end = keeper.places["headline"], keeper.places["other"], threading.Event()
    monkeypatch.setattr(retention, "purge_user", lambda *_: may_end.wait())
    try:
        for number in range(retention.MAX_ASKED_OF_PLACE):
            with pytest.raises(Refused, match="deletion_running"):
                await keeper.delete_user(place, f"user-{number}")
        with pytest.raises(Refused, match="storage_busy"):
            await keeper.delete_user(place, "carol")
        with pytest.raises(Refused, match="deletion_running"):
            await keeper.delete_user(other, "carol")
        monkeypatch.setattr(retention, "ASKING_SECONDS", 0.01)
        for _ in range(retention.MAX_ASKED_OF_PLACE):
            with pytest.raises(Refused, match="storage_failed"):
                await keeper.ask(lambda _: may_end.wait(), place)
        monkeypatch.setattr(retention, "ASKING_SECONDS", 60)
        with pytest.raises(Refused, match="storage_busy"):
            await keeper.ask(lambda _: True, place)
        async with asyncio.timeout(30):
            assert await keeper.ask(lambda _: True, other)
    finally:
        may_end.set()


async def test_the_deletions_that_may_run_at_once_are_bounded(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_ASKED", 2)
    monkeypatch.setattr(retention, "DELETING_SECONDS", 0.01)
    follow(keeper, headline=tmp_path)
    place, may_end = keeper.places["headline"], threading.Event()
    monkeypatch.setattr(retention, "purge_user", lambda *_: may_end.wait())
    try:
        for user in ("alice", "alice", "bob"):
            with pytest.raises(Refused, match="deletion_running"):
                await keeper.delete_user(place, user)
        with pytest.raises(Refused, match="storage_busy"):
            await keeper.delete_user(place, "carol")
    finally:
        may_end.set()


async def test_a_clock_that_is_ahead_makes_nothing_that_is_stored_old(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(keeper, headline=tmp_path)
    place, today = keeper.places["headline"], retention.now()
    given = [row(number, time=today - timedelta(days=number)) for number in range(5)]
    for each in given:
        spool(keeper, each)
    assert await keeper.store_all()
    monkeypatch.setattr(retention, "now", lambda: today + timedelta(days=40))
    await keeper.sweep(place)
    store = keeper.store_of(place)
    assert len(list(read_exchanges(store))) == len(given)
    # Where the clock of the storage says so too, each sweep deletes one day more.
    monkeypatch.setattr(retention, "time_of_store", lambda _: today + timedelta(days=40))
    for left in (4, 3):
        await keeper.sweep(place)
        assert len(list(read_exchanges(store))) == left


async def test_a_deletion_tells_how_many_rows_it_removed_also_to_who_came_back_for_it(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(keeper, headline=tmp_path)
    place = keeper.places["headline"]
    assert await keeper.delete_user(place, "nobody") == 0
    for number in range(3):
        spool(keeper, row(number, user="alice"))
    assert await keeper.store_all()
    spool(keeper, row(3, user="alice"), row(4, user="bob"))
    may_end, purge = threading.Event(), retention.purge_user

    def purge_slowly(store: ObjectStore, user: str) -> int:
        may_end.wait()
        return purge(store, user)

    with monkeypatch.context() as patch:
        patch.setattr(retention, "purge_user", purge_slowly)
        patch.setattr(retention, "DELETING_SECONDS", 0.01)
        try:
            with pytest.raises(Refused, match="deletion_running"):
                await keeper.delete_user(place, "alice")
        finally:
            may_end.set()
    assert await keeper.delete_user(place, "alice") == 4
    assert await keeper.delete_user(place, "alice") == 0
    assert stored_users(keeper) == {"bob"}


async def test_a_user_of_one_sender_is_deleted_apart_whatever_comes_late(
    keeper: Keeper, tmp_path: Path
) -> None:
    follow(keeper, headline=tmp_path)
    place = keeper.places["headline"]
    store = keeper.store_of(place)
    mine = [replace(row(number, user="alice"), sender="mine") for number in range(2)]
    theirs = replace(row(2, user="alice"), sender="theirs")
    spool(keeper, mine[0], theirs)
    assert await keeper.store_all()
    assert await keeper.delete_user(place, "alice.mine") == 1
    spool(keeper, mine[1])  # it waited at another front
    assert await keeper.store_all()
    assert [each.id for each in read_exchanges(store)] == [theirs.id]
    # Who knows an answer by its id and its user alone hears of it, too.
    deleted = read_deleted(store)
    found = [deleted.covers(each.id, each.user, each.time) for each in (*mine[:1], theirs)]
    assert found == [True, False]


async def test_storage_that_hangs_keeps_one_thread_and_its_endpoint_has_a_key_all_the_same(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(keeper, headline=tmp_path)
    may_end, asked = threading.Event(), list[str]()

    def hang(self: FileStore, prefix: str = "") -> Iterator[ObjectInfo]:
        asked.append(prefix)
        may_end.wait()
        return iter(())

    monkeypatch.setattr(retention, "KEY_SECONDS", 0.05)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(FileStore, "list", hang)
            await asyncio.gather(*(keeper.know_people("headline") for _ in range(20)))
            assert len(asked) == 1
            made = keeper.people.hash("headline", "team-a/headline", "bob")
    finally:
        may_end.set()
    spool(keeper, row(1))
    assert await keeper.store_all()
    other = keeper_of(tmp_path / "other", token="another")
    follow(other, headline=tmp_path)
    await other.know_people("headline")
    assert other.people.hash("headline", "team-a/headline", "bob") == made
