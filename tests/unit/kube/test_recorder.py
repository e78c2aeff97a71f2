"""Events are aggregated, limited, and never in the way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from finetune_operator.kube.api.errors import Forbidden, ServerUnavailable
from finetune_operator.kube.api.resource import JOBS
from finetune_operator.kube.recorder import EventRecorder
from kit.cluster.fake_client import FakeClient
from kit.cluster.objects import pod
from kit.processes.clock import LoopClock

pytestmark = pytest.mark.looptime


@asynccontextmanager
async def make_recorder(client: FakeClient, **options):
    recorder = EventRecorder(client, component="op", instance="op-0", clock=LoopClock(), **options)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def events(client: FakeClient) -> list[dict]:
    return [obj for (kind, *_), obj in client.cluster.objects.items() if kind == "events"]


async def test_event_says_what_happened_to_whom():
    client = FakeClient()
    async with make_recorder(client) as recorder:
        recorder.record(JOBS, pod("a", 5), "Warning", "Failed", "it broke")
        await asyncio.sleep(1)
    (event,) = events(client)
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "Failed", "it broke")
    assert event["involvedObject"] == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "a",
        "namespace": "ns",
        "uid": "uid-a",
        "resourceVersion": "5",
    }
    assert event["count"] == 1
    assert event["source"] == {"component": "op", "host": "op-0"}
    assert event["metadata"]["namespace"] == "ns"


async def test_the_first_event_goes_at_once_and_what_follows_goes_together():
    client = FakeClient()
    async with make_recorder(client, num_senders=1) as recorder:
        recorder.record(JOBS, pod("a", 5), "Normal", "Begun", "now")
        await asyncio.sleep(0.01)
        assert len(events(client)) == 1
        for number in range(5):
            recorder.record(JOBS, pod("a", 5), "Normal", "Went", f"on {number}")
            await asyncio.sleep(0.05)
        assert len(events(client)) == 1
        await asyncio.sleep(0.3)
        assert len(events(client)) == 6


async def test_a_hundred_repeats_are_one_event_and_two_writes():
    client = FakeClient()
    async with make_recorder(client) as recorder:
        recorder.record(JOBS, pod("a", 5), "Normal", "Waiting", "for quota")
        await asyncio.sleep(1)
        for _ in range(99):
            recorder.record(JOBS, pod("a", 5), "Normal", "Waiting", "for quota")
        await asyncio.sleep(30)
    (event,) = events(client)
    assert event["count"] == 100
    assert event["lastTimestamp"] > event["firstTimestamp"]
    assert len(client.writes) == 2


async def test_restarted_process_adds_to_the_same_event():
    client = FakeClient()
    for _ in range(2):
        async with make_recorder(client) as recorder:
            recorder.record(JOBS, pod("a", 5), "Normal", "Created", "job")
            await asyncio.sleep(1)
            recorder.record(JOBS, pod("a", 6), "Normal", "Created", "job")
            await asyncio.sleep(30)
    (event,) = events(client)
    # 2 by the first; the second process's first one only renews the time.
    assert event["count"] == 3


async def test_expired_event_is_made_anew():
    client = FakeClient()
    async with make_recorder(client) as recorder:
        recorder.record(JOBS, pod("a", 5), "Normal", "Waiting", "for quota")
        await asyncio.sleep(1)
        client.cluster.objects.clear()
        recorder.record(JOBS, pod("a", 5), "Normal", "Waiting", "for quota")
        await asyncio.sleep(30)
    (event,) = events(client)
    assert event["count"] == 1


async def test_one_noisy_object_is_limited_and_others_are_not():
    client = FakeClient()
    async with make_recorder(client) as recorder:
        for number in range(100):
            recorder.record(JOBS, pod("noisy", 5), "Normal", "Step", f"number {number}")
        recorder.record(JOBS, pod("quiet", 5), "Normal", "Step", "one")
        await asyncio.sleep(1)
        names = [event["involvedObject"]["name"] for event in events(client)]
        assert names.count("noisy") == 25
        assert names.count("quiet") == 1
        await asyncio.sleep(301)
        recorder.record(JOBS, pod("noisy", 5), "Normal", "Step", "again")
        await asyncio.sleep(1)
    assert len(events(client)) == 27
    dropped = client.metrics.registry.get_sample_value(
        "event_recorder_total", {"outcome": "dropped"}
    )
    assert dropped == 75


async def test_recording_never_waits_and_a_full_queue_drops():
    client = FakeClient()
    client.latency_seconds = 1000.0
    async with make_recorder(client, max_pending=3) as recorder:
        for number in range(10):
            recorder.record(JOBS, pod(f"o{number}", 5), "Normal", "R", "m")
        assert recorder._queue.qsize() == 3


async def test_unreachable_server_is_tried_again_a_few_times():
    client = FakeClient()
    client.faults.extend([ServerUnavailable("x", status=503)] * 2)
    async with make_recorder(client) as recorder:
        recorder.record(JOBS, pod("a", 5), "Normal", "R", "m")
        await asyncio.sleep(60)
    assert len(events(client)) == 1


async def test_dying_namespace_drops_the_event_and_nothing_else():
    client = FakeClient()
    client.faults.append(Forbidden("x", status=403, message="namespace is terminating"))
    async with make_recorder(client) as recorder:
        recorder.record(JOBS, pod("a", 5), "Normal", "R", "m")
        recorder.record(JOBS, pod("b", 5), "Normal", "R", "m")
        await asyncio.sleep(60)
    assert [event["involvedObject"]["name"] for event in events(client)] == ["b"]


async def test_long_message_is_cut_and_long_name_fits():
    client = FakeClient()
    async with make_recorder(client) as recorder:
        recorder.record(JOBS, pod("n" * 253, 5), "Normal", "R", "m" * 5000)
        await asyncio.sleep(1)
    (event,) = events(client)
    assert len(event["message"]) == 1024
    assert len(event["metadata"]["name"]) <= 253


async def test_flush_sends_what_is_waiting_at_the_end():
    client = FakeClient()
    recorder = EventRecorder(client, component="op", instance="op-0", clock=LoopClock())
    for number in range(5):
        recorder.record(JOBS, pod(f"o{number}", 5), "Normal", "R", "m")
    await recorder.flush()
    assert len(events(client)) == 5


async def test_flush_gives_up_in_time():
    client = FakeClient()
    client.latency_seconds = 100.0
    recorder = EventRecorder(client, component="op", instance="op-0", clock=LoopClock())
    recorder.record(JOBS, pod("a", 5), "Normal", "R", "m")
    started = asyncio.get_running_loop().time()
    await recorder.flush(timeout_seconds=2.0)
    assert asyncio.get_running_loop().time() - started <= 2.5
