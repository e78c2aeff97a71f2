"""What a reconcile's result does to its key."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.queue.workers import Done, RequeueAfter, Retry, Workers
from finetune_operator.kube.queue.workqueue import WorkQueue
from kit.processes.eventually import eventually_async

pytestmark = pytest.mark.looptime


class Reconciler:
    """Gives scripted results; the last one again and again."""

    def __init__(self, *results) -> None:
        self._results = list(results)
        self.calls: list[tuple[str, float]] = []

    async def __call__(self, key: str):
        self.calls.append((key, asyncio.get_running_loop().time()))
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if isinstance(result, Exception):
            raise result
        return result


@asynccontextmanager
async def running(reconcile, *, num_workers=4):
    metrics = KubeMetrics()
    queue = WorkQueue("jobs", rng=random.Random(1), metrics=metrics)
    workers = Workers(queue, reconcile, num_workers=num_workers, metrics=metrics)
    task = asyncio.create_task(workers.run())
    try:
        yield queue, metrics
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def count(metrics: KubeMetrics, result: str) -> float | None:
    labels = {"controller": "jobs", "result": result}
    return metrics.registry.get_sample_value("controller_runtime_reconcile_total", labels)


async def test_done_key_rests():
    reconcile = Reconciler(Done())
    async with running(reconcile) as (queue, metrics):
        queue.add("a")
        await asyncio.sleep(1000)
        assert count(metrics, "success") == 1
    assert len(reconcile.calls) == 1


async def test_requeued_key_comes_back_after_its_time():
    reconcile = Reconciler(RequeueAfter(30.0), Done())
    async with running(reconcile) as (queue, metrics):
        queue.add("a")
        await asyncio.sleep(100)
        assert count(metrics, "requeue_after") == 1
    assert [time for _, time in reconcile.calls] == pytest.approx([0, 30], abs=0.01)


async def test_retried_key_backs_off_and_success_resets_it():
    error = Retry(RuntimeError("later"))
    reconcile = Reconciler(*[error] * 10, Done())
    async with running(reconcile) as (queue, metrics):
        queue.add("a")
        await eventually_async(lambda: count(metrics, "success") == 1, 100)
        assert queue.num_requeues("a") == 0
    times = [time for _, time in reconcile.calls]
    waits = [b - a for a, b in pairwise(times)]
    assert all(2.5 > b / a > 1.5 for a, b in pairwise(waits[2:]))


async def test_time_named_by_the_server_is_used():
    reconcile = Reconciler(Retry(RuntimeError("429"), after_seconds=7.0), Done())
    async with running(reconcile) as (queue, _):
        queue.add("a")
        await asyncio.sleep(20)
    assert reconcile.calls[1][1] == pytest.approx(7.0, abs=0.01)


async def test_bug_in_one_reconcile_is_counted_retried_and_stops_nobody(caplog):
    reconcile = Reconciler(KeyError("bug"), Done())
    async with running(reconcile, num_workers=1) as (queue, metrics):
        queue.add("a")
        queue.add("b")
        await asyncio.sleep(1)
        name = "controller_runtime_reconcile_panics_total"
        assert metrics.registry.get_sample_value(name, {"controller": "jobs"}) == 1
        assert count(metrics, "success") == 2
    assert "failed unexpectedly" in caplog.text


async def test_cancelled_reconcile_is_done_again_by_the_next_leader():
    queue = WorkQueue("jobs", rng=random.Random(1))
    began = asyncio.Event()

    async def stuck(key):
        began.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(Workers(queue, stuck).run())
    queue.add("a")
    await began.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    reconcile = Reconciler(Done())
    second = asyncio.create_task(Workers(queue, reconcile).run())
    await eventually_async(lambda: reconcile.calls)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_queue_shut_down_ends_the_pool():
    queue = WorkQueue("jobs", rng=random.Random(1))
    task = asyncio.create_task(Workers(queue, Reconciler(Done())).run())
    await asyncio.sleep(0)
    queue.shut_down()
    async with asyncio.timeout(1):
        await task


async def test_keys_are_worked_on_in_parallel_up_to_the_number_of_workers():
    busy, most = 0, 0

    async def reconcile(key):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(1)
        busy -= 1
        return Done()

    async with running(reconcile, num_workers=4) as (queue, _):
        for number in range(20):
            queue.add(f"k{number}")
        await asyncio.sleep(5.5)
    assert most == 4
