"""Progress: none without a change, at most one write per interval, the latest value wins."""

from __future__ import annotations

import asyncio
import random

import pytest

from finetune_operator.kube.api.errors import Invalid, ServerUnavailable
from finetune_operator.kube.api.resource import JOBS
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.status import StatusThrottle
from kit.cluster.fake_client import FakeClient
from kit.cluster.objects import pod
from kit.processes.eventually import eventually_async


async def make_object(client: FakeClient, name: str = "a") -> dict:
    return await FakeClient(client.cluster).create(JOBS, pod(name, ""))


def make_throttle(client: FakeClient, **options) -> StatusThrottle:
    return StatusThrottle(client, JOBS, field_manager="progress", rng=random.Random(1), **options)


class Running:
    def __init__(self, throttle: StatusThrottle) -> None:
        self._throttle = throttle

    async def __aenter__(self):
        self._task = asyncio.create_task(self._throttle.run())

    async def __aexit__(self, *_):
        assert not self._task.done()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def steps(client: FakeClient) -> list[int]:
    return [body["status"]["step"] for _, body in client.writes]


@pytest.mark.looptime
async def test_progress_every_second_is_written_every_interval_and_the_latest_wins():
    client = FakeClient()
    obj = await make_object(client)
    throttle = make_throttle(client, interval_seconds=15.0)
    async with Running(throttle):
        for step in range(60):
            throttle.submit(obj, {"step": step})
            await asyncio.sleep(1)
        await asyncio.sleep(20)
    assert len(client.writes) == 5
    assert steps(client)[0] == 0
    assert steps(client)[-1] == 59


@pytest.mark.looptime
async def test_urgent_value_does_not_wait():
    client = FakeClient()
    obj = await make_object(client)
    throttle = make_throttle(client)
    async with Running(throttle):
        throttle.submit(obj, {"step": 1})
        await asyncio.sleep(1)
        throttle.submit(obj, {"step": 2})
        throttle.submit(obj, {"step": 3}, urgent=True)
        await asyncio.sleep(1)
        assert steps(client) == [1, 3]
        await asyncio.sleep(60)
    assert steps(client) == [1, 3]


@pytest.mark.looptime
async def test_repeated_value_is_not_written_again():
    client = FakeClient()
    obj = await make_object(client)
    throttle = make_throttle(client)
    async with Running(throttle):
        for _ in range(5):
            throttle.submit(obj, {"step": 1})
            await asyncio.sleep(30)
    assert steps(client) == [1]


@pytest.mark.looptime
async def test_write_that_failed_is_tried_again_with_the_newest_value():
    client = FakeClient()
    obj = await make_object(client)
    client.faults.extend([ServerUnavailable("x", status=503)] * 3)
    client.latency_seconds = 0.1
    throttle = make_throttle(client)
    async with Running(throttle):
        throttle.submit(obj, {"step": 1})
        await asyncio.sleep(0.05)
        throttle.submit(obj, {"step": 2})
        await eventually_async(lambda: client.writes, 60)
    assert steps(client) == [2]


@pytest.mark.looptime
async def test_object_that_is_gone_or_refuses_is_dropped():
    client = FakeClient()
    obj = await make_object(client)
    client.cluster.objects.clear()
    throttle = make_throttle(client)
    async with Running(throttle):
        throttle.submit(obj, {"step": 1})
        await asyncio.sleep(100)
        assert len(client.writes) == 1
        client.faults.append(Invalid("x", status=422))
        throttle.submit(obj, {"step": 2})
        await asyncio.sleep(100)
    assert len(client.writes) == 1


@pytest.mark.looptime
async def test_value_that_is_not_wanted_any_more_when_its_time_comes_is_dropped():
    client = FakeClient()
    obj = await make_object(client)
    last_wanted = 2
    throttle = make_throttle(client, is_wanted=lambda obj, status: status["step"] <= last_wanted)
    async with Running(throttle):
        throttle.submit(obj, {"step": 1})
        await asyncio.sleep(1)
        throttle.submit(obj, {"step": 3})
        await asyncio.sleep(20)
        assert steps(client) == [1]
        last_wanted = 4
        throttle.submit(obj, {"step": 4})
        await asyncio.sleep(20)
    assert steps(client) == [1, 4]


@pytest.mark.looptime
async def test_objects_do_not_wait_for_each_other():
    client = FakeClient()
    objects = [await make_object(client, f"o{n}") for n in range(50)]
    client.latency_seconds = 1.0
    throttle = make_throttle(client, num_workers=10)
    async with Running(throttle):
        for obj in objects:
            throttle.submit(obj, {"step": 1})
        await asyncio.sleep(6)
    assert len(client.writes) == 50


@pytest.mark.looptime
async def test_answer_feeds_the_cache():
    client = FakeClient()
    obj = await make_object(client)
    store = Store()
    store.observe("ADDED", dict(obj))
    throttle = make_throttle(client, absorb=store.absorb)
    async with Running(throttle):
        throttle.submit(obj, {"step": 1})
        await asyncio.sleep(1)
    assert store.get("ns", "a")["status"] == {"step": 1}
