"""Status writes: none without a change, one per change, at most one per interval for progress."""

from __future__ import annotations

import asyncio
import random

import pytest

from finetune_operator.kube.errors import Invalid, ServerUnavailable
from finetune_operator.kube.resource import JOBS
from finetune_operator.kube.status import StatusThrottle, StatusWriter, with_transition_times
from finetune_operator.kube.store import Store
from support.clock import START, FakeClock
from support.eventually import eventually_async
from support.fake_client import FakeClient
from support.objects import pod


async def make_object(client: FakeClient, name: str = "a") -> dict:
    return await FakeClient(client.cluster).create(JOBS, pod(name, ""))


def make_writer(client: FakeClient, **options) -> StatusWriter:
    return StatusWriter(client, JOBS, field_manager="me", clock=FakeClock(), **options)


async def test_equal_status_is_not_written():
    client = FakeClient()
    obj = await make_object(client) | {"status": {"phase": "x", "n": [1]}}
    assert await make_writer(client).write(obj, {"n": [1], "phase": "x"}) is None
    assert client.writes == []


async def test_changed_status_is_one_write_over_the_version_it_was_computed_from():
    client = FakeClient()
    obj = await make_object(client)
    absorbed = []
    writer = make_writer(client, absorb=absorbed.append)
    answer = await writer.write(obj, {"phase": "x"})
    ((verb, body),) = client.writes
    assert verb == "apply"
    version = obj["metadata"]["resourceVersion"]
    assert body["metadata"] == {"name": "a", "namespace": "ns", "resourceVersion": version}
    assert body["status"] == {"phase": "x"}
    assert absorbed == [answer]


async def test_fields_of_another_manager_are_neither_compared_nor_sent():
    client = FakeClient()
    obj = await make_object(client) | {"status": {"phase": "x", "progress": {"step": 3}}}
    writer = make_writer(client, foreign_fields=["progress"])
    assert await writer.write(obj, {"phase": "x"}) is None
    await writer.write(obj, {"phase": "y"})
    assert client.writes[0][1]["status"] == {"phase": "y"}


async def test_own_field_that_is_no_longer_wanted_is_a_change():
    client = FakeClient()
    obj = await make_object(client) | {"status": {"phase": "x", "lastFailure": {"a": 1}}}
    assert await make_writer(client).write(obj, {"phase": "x"}) is not None


async def test_defaults_added_by_the_server_do_not_cause_a_write_each_time():
    client = FakeClient()
    obj = await make_object(client)
    writer = make_writer(client)
    answer = await writer.write(obj, {"phase": "x"})
    cached = answer | {"status": {"phase": "x", "retries": 0}}
    writer._last[("ns", "a")] = (writer._last[("ns", "a")][0], _digest(cached["status"]))
    assert await writer.write(cached, {"phase": "x"}) is None
    assert len(client.writes) == 1


def _digest(value):
    from finetune_operator.kube.apply import digest_of

    return digest_of(value)


async def test_condition_time_changes_only_when_the_status_flips():
    client = FakeClient()
    clock = FakeClock()
    writer = StatusWriter(client, JOBS, field_manager="me", clock=clock)
    obj = await make_object(client)
    obj = await writer.write(obj, {"conditions": [condition("Ready", "False", "Wait")]})
    first = obj["status"]["conditions"][0]["lastTransitionTime"]
    clock.advance(60)
    obj = await writer.write(obj, {"conditions": [condition("Ready", "False", "Other")]})
    assert obj["status"]["conditions"][0]["lastTransitionTime"] == first
    clock.advance(60)
    assert await writer.write(obj, {"conditions": [condition("Ready", "False", "Other")]}) is None
    obj = await writer.write(obj, {"conditions": [condition("Ready", "True", "Fine")]})
    assert obj["status"]["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:02:00Z"


def condition(kind: str, status: str, reason: str) -> dict:
    return {"type": kind, "status": status, "reason": reason, "message": ""}


def test_time_that_a_condition_brings_along_is_kept():
    given = condition("A", "True", "r") | {"lastTransitionTime": "2020-01-01T00:00:00Z"}
    assert with_transition_times([given], [], START) == [given]


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


async def test_answer_feeds_the_cache():
    client = FakeClient()
    obj = await make_object(client)
    store = Store()
    store.observe("ADDED", dict(obj))
    await make_writer(client, absorb=store.absorb).write(obj, {"phase": "x"})
    assert store.get("ns", "a")["status"] == {"phase": "x"}
