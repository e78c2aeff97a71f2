"""Captured answers over outages and kills: processes, sockets and an S3 server, all real."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.places import read_id
from finetune_trainer.traffic.reading import open_traffic
from kit.processes.eventually import eventually_async, patient
from kit.servers.faulty_s3 import FaultyS3, faulty_s3
from kit.servers.seaweedfs import SeaweedS3
from kit.servers.streaming_engine import StreamingEngine, streaming_engine
from kit.serving.capturing import Pod, capturing_pod, rows_at_rest

ROW_BYTES = 2000
NUM_CLIENTS = 4
HURRY = {
    "serve.front.capturing.MAX_FRAMES": 100,
    "serve.front.capturing.MAX_PAUSE_SECONDS": 0.2,
    "serve.recorder.retention.SEGMENT_SECONDS": 0.2,
    "serve.recorder.retention.LOOK_SECONDS": 0.1,
    "serve.recorder.retention.MAX_PAUSE_SECONDS": 0.5,
    "serve.recorder.spool.MAX_BYTES": 80 * ROW_BYTES,
    "serve.recorder.spool.SEGMENT_BYTES": 20 * ROW_BYTES,
    "storage.s3.store.MAX_ATTEMPTS": 1,
}


@pytest.fixture
def link(s3: SeaweedS3) -> Iterator[FaultyS3]:
    with faulty_s3(s3.endpoint) as link:
        yield link


class Scene:
    """A pod under load, and where its rows are stored."""

    def __init__(self, pod: Pod, engine: StreamingEngine, store: ObjectStore, spool: Path) -> None:
        self.pod = pod
        self.spool = spool
        self.engine = engine
        self.store = store
        self.answered: dict[str, float] = {}
        """When each answer was whole, by its id."""

    async def load(self, number: int) -> None:
        """Ask so often, some at once."""
        left = iter(range(number))

        async def client() -> None:
            for n in left:
                try:
                    self.answered[await self.pod.ask(f"Question {n}")] = time.monotonic()
                except aiohttp.ClientError:
                    return  # the front is gone

        await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))

    async def settle(self, *known: str) -> list[str]:
        """Wait until nothing waits any more; return the ids of all rows at rest.

        ``known`` must be among them.
        """

        async def is_settled() -> bool:
            stored = set(rows_at_rest(self.store))
            num_dropped = (await self.pod.dropped()).total()
            is_empty = not any(self.spool.rglob("*.jsonl"))
            return (
                is_empty
                and stored.issuperset(known)
                and len(stored) + num_dropped >= len(self.answered)
            )

        await eventually_async(is_settled, timeout=60, interval=0.2)
        return list(rows_at_rest(self.store))


@asynccontextmanager
async def scene(
    s3: SeaweedS3, link: FaultyS3, folder: Path, **hurry: float
) -> AsyncIterator[Scene]:
    uri = s3.new_uri()
    storage = {"uri": uri, "endpoint": link.endpoint, "credentialsSecret": "s3-read-write"}
    store = open_traffic(uri, "team-a", "headline", s3.access())
    async with (
        streaming_engine() as engine,
        capturing_pod(folder, engine.port, storage, s3.credentials_dir, {**HURRY, **hurry}) as pod,
    ):
        engine.texts["team-a.headline-v1"] = ["word " * (ROW_BYTES // 10)]
        yield Scene(pod, engine, store, folder / "spool")


async def test_storage_that_is_away_under_load_loses_only_what_is_counted(
    s3: SeaweedS3, link: FaultyS3, tmp_path: Path
) -> None:
    async with scene(s3, link, tmp_path) as found:
        await found.load(60)
        assert len(await found.settle()) == 60
        link.shut()
        num_while_away = 0
        while not {"QueueFull"} <= (await found.pod.dropped()).keys():
            await found.load(60)
            num_while_away += 60
        assert num_while_away < 3000
        link.open()
        await found.load(60)
        stored = await found.settle()
        dropped = await found.pod.dropped()
    assert dropped.keys() <= {"QueueFull", "SpoolFull"}
    assert max(Counter(stored).values()) == 1
    assert set(stored) < set(found.answered)
    assert len(stored) + dropped.total() == len(found.answered)
    assert len(stored) > 60  # some of the outage were kept


async def test_answers_are_taken_while_storage_hangs_and_people_ask_for_lists(
    s3: SeaweedS3, link: FaultyS3, tmp_path: Path
) -> None:
    async with scene(s3, link, tmp_path) as found:
        goes_on = threading.Event()
        link.on_request = lambda *_: goes_on.wait()
        url = f"http://127.0.0.1:{found.pod.front.port}/v1/chat/completions?model=headline"
        asked = [asyncio.ensure_future(found.pod.session.get(url)) for _ in range(40)]
        await asyncio.sleep(0)
        await found.load(40)
        spool = tmp_path / "spool" / "headline"

        async def are_taken() -> bool:
            lines = b"".join(path.read_bytes() for path in spool.glob("*.jsonl"))
            return lines.count(b"\n") == 40

        await eventually_async(are_taken, timeout=20)
        link.on_request = lambda *_: None
        goes_on.set()
        for answer in await asyncio.gather(*asked):
            answer.release()
        assert set(await found.settle()) == set(found.answered)


@pytest.mark.parametrize("who", ["front", "recorder", "both"])
async def test_a_kill_while_writing_doubles_nothing_and_its_losses_are_counted(
    s3: SeaweedS3, link: FaultyS3, tmp_path: Path, who: str
) -> None:
    kills: list[float] = []
    room = {"serve.recorder.spool.MAX_BYTES": 2**26, "serve.front.capturing.MAX_FRAMES": 4096}
    async with scene(s3, link, tmp_path, **room) as found:
        front, recorder = found.pod.front, found.pod.recorder
        killed = {"front": [front], "recorder": [recorder], "both": [recorder, front]}[who]
        for number in range(3):
            enough = len(found.answered) + 20
            if who == "front" and number == 2:
                recorder.signal(signal.SIGSTOP)  # so that answers wait in the front
            load = asyncio.create_task(found.load(60))
            while len(found.answered) < enough:
                assert not load.done(), f"{len(found.answered)} of {enough} answers came"
                await asyncio.sleep(0.002)
            for each in killed:
                each.earlier = await each.counts()
                each.kill()
                kills.append(time.monotonic())
            recorder.signal(signal.SIGCONT)
            for each in killed:
                await asyncio.to_thread(each.start)
            await load
        before = set(found.answered)
        await found.load(20)
        stored = await found.settle(*set(found.answered) - before)
        dropped = await found.pod.dropped()
    asked = {read_id(each.header("X-Request-Id") or "") for each in found.engine.asked}
    lost = set(found.answered) - set(stored)
    assert max(Counter(stored).values()) == 1
    assert set(found.answered) - before <= set(stored) <= asked
    assert dropped.keys() <= {"Killed"}
    assert len(lost) <= dropped.total()
    recent = patient(2.0)
    assert all(any(0 <= kill - found.answered[each] < recent for kill in kills) for each in lost)
    if who == "recorder":
        assert not lost
        assert not dropped
    if who == "front":
        assert len(lost) >= 20
