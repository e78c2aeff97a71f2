"""Answers on their way from a front to object storage, on real sockets, with faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.serve.recorder import retention
from finetune_trainer.serve.recorder.spool import Spool
from finetune_trainer.storage.local import FileStore
from finetune_trainer.traffic.places import read_id
from finetune_trainer.traffic.reading import list_segments, read_exchanges
from finetune_trainer.traffic.rows import Exchange
from kit.processes.eventually import eventually_async
from kit.servers.running_front import RunningFront, access, endpoint, running_front, served
from kit.servers.running_recorder import RunningRecorder, capture, running_recorder
from kit.servers.streaming_engine import StreamingEngine, cut, fail, streaming_engine

V1 = "team-a.headline-v1"
MAIL = "max.mustermann@example-firma.de"


@asynccontextmanager
async def captured(
    folder: Path, **rule: object
) -> AsyncIterator[tuple[StreamingEngine, RunningFront, RunningRecorder]]:
    async with streaming_engine() as engine:
        made = endpoint(served(1, engine.port), capture=capture(folder, **rule))
        async with (
            running_recorder(folder, made) as recorder,
            running_front(folder, made, recorder=recorder.socket) as front,
        ):
            yield engine, front, recorder


async def ask(front: RunningFront, content: str = "hi", **body: Any) -> str:
    """Ask, and return the response id without its prefix."""
    async with front.ask(content, **body) as answer:
        assert answer.status == 200
        await answer.read()
        found: str = answer.headers["x-request-id"]
        return found


async def spooled(recorder: RunningRecorder, number: int) -> list[Exchange]:
    """Wait until the recorder has so many rows; return them."""

    async def has_them() -> bool:
        return len(list(recorder.keeper.spool.rows_of("headline"))) >= number

    await eventually_async(has_them)
    return list(recorder.keeper.spool.rows_of("headline"))


async def stored(recorder: RunningRecorder) -> list[Exchange]:
    assert await recorder.keeper.store_all()
    return list(read_exchanges(recorder.store()))


async def test_an_answer_is_stored_once_with_its_version_and_without_personal_data(
    tmp_path: Path,
) -> None:
    async with captured(tmp_path) as (engine, front, recorder):
        engine.texts[V1] = ["Write to max.muster", "mann@example-", "firma.de"]
        plain = await ask(front, f"I am {MAIL}", user=MAIL, store=True, metadata={"a": MAIL})
        streamed = await ask(front, stream=True)
        await spooled(recorder, 2)
        assert MAIL not in recorder.at_rest()
        rows = {row.id: row for row in await stored(recorder)}
        assert rows.keys() == {plain, streamed}
        assert {row.text for row in rows.values()} == {"Write to <EMAIL_1>"}
        row = rows[plain]
        assert (row.version, row.endpoint, row.num_input_tokens) == (1, "headline", 3)
        assert row.messages == [{"role": "user", "content": "I am <EMAIL_1>"}]
        assert row.user is not None
        assert MAIL not in recorder.at_rest()
        assert [each.num_rows for each in list_segments(recorder.store())] == [2]
        asked = engine.asked[0]
        assert asked.header("X-Request-Id") == plain == read_id(plain)
        assert not {"store", "metadata"} & asked.body.keys()


@pytest.mark.parametrize(
    ("include", "sample", "store", "is_captured"),
    [
        *[("OptIn", "1", None, False), ("OptIn", "1", True, True), ("OptIn", "1", False, False)],
        *[("All", "1", None, True), ("All", "1", False, False), ("All", "0.000001", True, True)],
    ],
)
async def test_what_is_captured_is_what_the_rule_and_the_request_say(
    tmp_path: Path, include: str, sample: str, store: bool | None, is_captured: bool
) -> None:
    async with captured(tmp_path, include=include, sample=sample) as (_, front, recorder):
        wanted: dict[str, Any] = {} if store is None else {"store": store}
        first = await ask(front, **wanted)
        last = await ask(front, store=True)
        rows = await spooled(recorder, 1 + is_captured)
        assert {row.id for row in rows} == {last, *([first] if is_captured else [])}


async def test_failures_of_the_server_are_rows_and_refused_requests_are_not(
    tmp_path: Path,
) -> None:
    async with captured(tmp_path) as (engine, front, recorder):
        for status in (500, 400):
            engine.behaviours[V1] = fail(status)
            async with front.ask() as answer:
                assert answer.status == status
                await answer.read()
        engine.behaviours[V1] = cut
        engine.may_cut.set()
        async with front.ask(stream=True) as answer:
            await answer.content.readany()
        rows = await spooled(recorder, 2)
        assert [(row.is_error, row.text) for row in rows] == [(True, ""), (True, "")]


async def test_an_answer_that_is_too_long_passes_and_is_counted(tmp_path: Path) -> None:
    async with captured(tmp_path) as (engine, front, recorder):
        engine.texts[V1] = ["x" * 100_000] * 3
        await ask(front)
        await ask(front, stream=True)
        engine.texts[V1] = ["short"]
        await ask(front)
        assert [row.text for row in await spooled(recorder, 1)] == ["short"]
        counted = 'capture_dropped_total{finetuneendpoint="headline",reason="TooLarge"} 2.0'
        assert counted in await front.metrics()


async def test_a_request_that_nests_too_deeply_for_a_row_stops_no_other(tmp_path: Path) -> None:
    nested: dict[str, Any] = {}
    for _ in range(252):
        nested = {"a": nested}
    async with captured(tmp_path) as (_, front, recorder):
        await ask(front, metadata=nested)
        other = await ask(front)
        assert [row.id for row in await spooled(recorder, 1)] == [other]
        counted = 'recorder_dropped_total{finetuneendpoint="headline",reason="NotScrubbed"} 1.0'
        assert counted in (await recorder.process.read_metrics()).decode()


async def test_without_a_recorder_answers_come_and_drops_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.capturing.MAX_FRAMES", 3)
    async with streaming_engine() as engine:
        made = endpoint(served(1, engine.port), capture=capture(tmp_path))
        async with running_front(tmp_path, made, recorder=tmp_path / "recorder.sock") as front:
            ids = [await ask(front, str(number)) for number in range(5)]
            counted = 'capture_dropped_total{finetuneendpoint="headline",reason="QueueFull"} 2.0'
            assert counted in await front.metrics()
            async with running_recorder(tmp_path, made) as recorder:
                rows = await spooled(recorder, 3)
                assert [row.id for row in rows] == ids[:3]
                later = await ask(front)
                assert later in {row.id for row in await spooled(recorder, 4)}


async def test_an_endpoint_without_capture_writes_nothing(tmp_path: Path) -> None:
    async with captured(tmp_path) as (engine, front, recorder):
        made = endpoint(served(1, engine.port))
        front.follow(made)
        await ask(front, store=True)
        front.follow(endpoint(served(1, engine.port), capture=capture(tmp_path)))
        last = await ask(front)
        assert [row.id for row in await spooled(recorder, 1)] == [last]


async def test_while_the_storage_is_away_rows_wait_and_none_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FileStore.write_bytes

    def refuse(self: FileStore, key: str, data: bytes, *, if_absent: bool = False) -> None:
        raise StorageError("Unreachable", "away")

    def write_and_fail(self: FileStore, key: str, data: bytes, *, if_absent: bool = False) -> None:
        write(self, key, data, if_absent=if_absent)
        raise StorageError("Unreachable", "the answer was lost")

    async with captured(tmp_path) as (_, front, recorder):
        ids = [await ask(front, str(number)) for number in range(3)]
        await spooled(recorder, 3)
        for failure in (refuse, write_and_fail):
            monkeypatch.setattr(FileStore, "write_bytes", failure)
            assert not await recorder.keeper.store_all()
        monkeypatch.setattr(FileStore, "write_bytes", write)
        assert {row.id for row in await stored(recorder)} == set(ids)
        assert len(list_segments(recorder.store())) == 1
        assert recorder.keeper.spool.num_bytes == 0


async def test_a_full_spool_takes_nothing_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with captured(tmp_path) as (_, front, recorder):
        await ask(front)
        await spooled(recorder, 1)
        monkeypatch.setattr("finetune_trainer.serve.recorder.spool.MAX_BYTES", 1)
        second = await ask(front)
        await asyncio.sleep(0)
        assert recorder.keeper.spool.is_full
        assert await recorder.keeper.store_all()
        rows = await spooled(recorder, 1)
        assert [row.id for row in rows] == [second]


async def test_a_disk_that_is_full_for_a_while_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, failures = Spool.add, [OSError(28, "No space left on device")] * 9

    def fail_often(self: Spool, rows: Iterable[Exchange], now: float) -> int:
        if failures:
            raise failures.pop()
        return add(self, rows, now)

    monkeypatch.setattr(Spool, "add", fail_often)
    monkeypatch.setattr("finetune_trainer.serve.front.capturing.MAX_PAUSE_SECONDS", 0.01)
    async with captured(tmp_path) as (_, front, recorder):
        asked = await ask(front)
        assert [row.id for row in await spooled(recorder, 1)] == [asked]


async def test_a_recorder_that_is_killed_loses_nothing_that_it_has_taken(tmp_path: Path) -> None:
    async with captured(tmp_path) as (_, front, recorder):
        first = await ask(front)
        await spooled(recorder, 1)
        (file,) = recorder.keeper.spool.files
        with file.path.open("ab") as torn:
            torn.write(b'{"id": "torn')
        recorder.keeper.spool.files.clear()  # what a killed process knew
        recorder.keeper.spool.load()
        assert [row.id for row in await stored(recorder)] == [first]
        assert not list((tmp_path / "spool").rglob("*.jsonl"))


async def test_a_batch_that_comes_twice_is_stored_once(tmp_path: Path) -> None:
    async with captured(tmp_path) as (_, front, recorder):
        await ask(front)
        (row,) = await spooled(recorder, 1)
        assert recorder.keeper.spool.add([row], 0.0) == 0
        assert await recorder.keeper.store_all()
        assert recorder.keeper.spool.add([row], 0.0) == 0


async def test_rows_older_than_the_retention_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with captured(tmp_path, retentionDays=30) as (_, front, recorder):
        await ask(front)
        await spooled(recorder, 1)
        (row,) = await stored(recorder)
        place = recorder.keeper.places["headline"]

        for num_days, number in ((29, 1), (32, 0)):
            now = row.time + timedelta(days=num_days)
            monkeypatch.setattr(retention, "now", lambda now=now: now)
            monkeypatch.setattr(retention, "time_of_store", lambda _, now=now: now)
            await recorder.keeper.sweep(place)
            assert len(list(read_exchanges(recorder.store()))) == number


async def test_keys_are_still_asked_for(tmp_path: Path) -> None:
    async with captured(tmp_path) as (engine, front, recorder):
        made = endpoint(served(1, engine.port), capture=capture(tmp_path), access=access("keys"))
        front.follow(made)
        await front.set_keys("keys", alice="secret")
        async with front.ask() as answer:
            assert answer.status == 401
        async with front.ask(key="secret") as answer:
            assert answer.status == 200
        (row,) = await spooled(recorder, 1)
        assert row.sender
