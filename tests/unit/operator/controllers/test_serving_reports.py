"""Reports of serving pods: what is asked, how often, and what of the answers is believed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from finetune_api.protocol.serving import MAX_REPORT_BYTES, REPORT_PORT, FrontReport
from finetune_operator.controllers.memory import report_reading
from finetune_operator.controllers.memory import serving_reports as module
from finetune_operator.controllers.memory.serving_reports import ServingReports
from finetune_operator.finetuneendpoint.trimming import trim_serving_pod
from finetune_operator.kube.cache.store import Store
from kit.processes.clock import FakeClock
from kit.processes.eventually import eventually_async

# The port is fixed, so each process that tests at the same time needs addresses of its own.
ADDRESSES = iter(
    f"127.{number}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}" for number in range(1, 125)
)
REPORT = FrontReport(id="boot-1").model_dump(mode="json", by_alias=True)


def pod(
    address: str,
    *,
    version: int = 10,
    controller: str = "finetune-front-5d8f",
    namespace: str = "team-a",
    number: int = 1,
) -> Any:
    return {
        "metadata": {
            "name": f"front-{number}",
            "namespace": namespace,
            "uid": f"uid-{number}",
            "resourceVersion": str(version),
            "labels": {"finetune.dev/serving": "front"},
            "ownerReferences": [
                {"kind": "ReplicaSet", "name": controller, "controller": True, "uid": "rs"}
            ],
        },
        "status": {"phase": "Running", "podIP": address},
    }


class Front:
    """A pod that answers as a test wants."""

    def __init__(self) -> None:
        self.address = next(ADDRESSES)
        self.num_asked = 0
        self.answer: Any = REPORT

    async def respond(self, request: web.Request) -> web.Response:
        self.num_asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return web.json_response(self.answer)


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    found = Front()
    app = web.Application()
    app.router.add_get("/report", found.respond)
    app.router.add_get("/elsewhere", found.respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, found.address, REPORT_PORT).start()
    yield found
    await runner.cleanup()


class Poller:
    """A running poller, whose time a test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.urgent: set[tuple[str, str]] = set()
        self.news: list[Any] = []
        self.num_looks = 0
        self.num_pods = 2
        self.pods = Store(transform=trim_serving_pod)
        self.reports = ServingReports(
            self.pods,
            urgent=self.look,
            num_pods=lambda target: self.num_pods,
            names=lambda target: {"headlines"},
            on_news=lambda found, before, after: self.news.append((before, after)),
            clock=self.clock,
            rng=random.Random(1),
        )

    def look(self) -> set[tuple[str, str]]:
        self.num_looks += 1
        return self.urgent

    def report(self) -> Any:
        found = self.pods.get("team-a", "front-1")
        return None if found is None else self.reports.of(found)


@pytest.fixture
async def poller(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Poller]:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    found = Poller()
    task = asyncio.create_task(found.reports.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settled(poller: Poller) -> None:
    """Wait until the poller had several occasions to ask."""
    before = poller.num_looks

    async def has_looked() -> bool:
        return poller.num_looks >= before + 5

    await eventually_async(has_looked, timeout=5)


async def until_asked(front: Front, times: int) -> None:
    async def is_asked() -> bool:
        return front.num_asked >= times

    await eventually_async(is_asked, timeout=5)


async def test_a_changed_report_is_news_and_an_equal_one_is_not(
    front: Front, poller: Poller
) -> None:
    poller.urgent = {("team-a", "finetune-front")}
    poller.pods.observe("ADDED", pod(front.address))
    await eventually_async(poller.report, timeout=5)
    poller.clock.advance(1.0)
    await until_asked(front, 2)
    front.answer = {**REPORT, "id": "boot-2"}
    poller.clock.advance(1.0)
    await until_asked(front, 3)

    async def is_news() -> bool:
        return len(poller.news) == 2

    await eventually_async(is_news, timeout=5)
    assert [after.id for _, after in poller.news] == ["boot-1", "boot-2"]


async def test_a_pod_that_nobody_waits_for_is_asked_every_half_minute(
    front: Front, poller: Poller
) -> None:
    poller.pods.observe("ADDED", pod(front.address))
    await eventually_async(poller.report, timeout=5)
    poller.clock.advance(20.0)
    await settled(poller)
    assert front.num_asked == 1
    poller.urgent = {("team-a", "finetune-front")}
    await until_asked(front, 2)
    poller.urgent = set()
    poller.clock.advance(37.0)
    await until_asked(front, 3)


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "Other", "id": "x"},
        ["no object"],
        {**REPORT, "padding": "x" * (MAX_REPORT_BYTES)},
        web.HTTPFound("/elsewhere"),
        web.HTTPInternalServerError(),
    ],
    ids=["another kind", "a list", "too large", "a redirect", "an error"],
)
async def test_an_answer_that_is_no_report_is_none(
    answer: Any, front: Front, poller: Poller
) -> None:
    front.answer = answer
    poller.pods.observe("ADDED", pod(front.address))
    await until_asked(front, 1)
    await settled(poller)
    assert poller.report() is None
    assert front.num_asked == 1


async def test_a_report_is_kept_over_a_short_silence_and_forgotten_after_a_long_one(
    front: Front, poller: Poller
) -> None:
    poller.urgent = {("team-a", "finetune-front")}
    poller.pods.observe("ADDED", pod(front.address))
    await eventually_async(poller.report, timeout=5)
    front.answer = web.HTTPServiceUnavailable()
    poller.clock.advance(2.0)
    await until_asked(front, 2)
    await settled(poller)
    assert poller.report() is not None
    poller.clock.advance(module.FORGET_SECONDS)
    await until_asked(front, 3)

    async def is_forgotten() -> bool:
        return poller.report() is None

    await eventually_async(is_forgotten, timeout=5)
    assert poller.news[-1][1] is None


async def test_a_pod_that_another_controller_made_is_not_asked(
    front: Front, poller: Poller
) -> None:
    poller.pods.observe("ADDED", pod(front.address, controller="somebody-else-5d8f"))
    await settled(poller)
    assert front.num_asked == 0


async def test_the_report_of_a_pod_goes_with_it(front: Front, poller: Poller) -> None:
    poller.pods.observe("ADDED", pod(front.address))
    await eventually_async(poller.report, timeout=5)
    poller.pods.observe("DELETED", pod(front.address, version=11))
    assert poller.report() is None
    again = pod("", version=12)
    again["metadata"]["uid"] = "uid-2"
    poller.pods.observe("ADDED", again)
    assert poller.report() is None


class BlackHole:
    """A pod that takes connections and never answers."""

    def __init__(self) -> None:
        self.address = next(ADDRESSES)
        self.num_asked = 0
        self.num_open = 0
        self.most_open = 0

    async def swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_asked += 1
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        with contextlib.suppress(OSError):
            await reader.read()
        self.num_open -= 1
        writer.transport.abort()


@pytest.fixture
async def black_hole() -> AsyncIterator[BlackHole]:
    found = BlackHole()
    async with await asyncio.start_server(found.swallow, found.address, REPORT_PORT):
        yield found


async def test_pods_that_never_answer_delay_no_other_namespace(
    front: Front, black_hole: BlackHole, poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_reading, "TIMEOUT_SECONDS", 600.0)
    poller.num_pods = 200
    for number in range(200):
        poller.pods.observe("ADDED", pod(black_hole.address, number=number))

    async def is_busy() -> bool:
        return black_hole.num_open >= module.MAX_POLLS_OF_NAMESPACE

    await eventually_async(is_busy, timeout=5)
    poller.pods.observe("ADDED", pod(front.address, namespace="team-b"))
    await until_asked(front, 1)
    await settled(poller)
    assert black_hole.most_open == module.MAX_POLLS_OF_NAMESPACE


async def test_a_pod_that_does_not_answer_is_asked_less_and_less_often(
    black_hole: BlackHole, poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_reading, "TIMEOUT_SECONDS", 0.02)
    poller.urgent = {("team-a", "finetune-front")}
    poller.pods.observe("ADDED", pod(black_hole.address))
    for times, seconds in enumerate((1.0, 2.0, 4.0), start=1):

        async def is_over(times: int = times) -> bool:
            return black_hole.num_asked == times and not black_hole.num_open

        await eventually_async(is_over, timeout=5)
        await settled(poller)
        poller.clock.advance(seconds - 0.5)
        await settled(poller)
        assert black_hole.num_asked == times
        poller.clock.advance(0.5)


async def test_no_more_pods_are_asked_than_a_deployment_can_have(
    front: Front, poller: Poller
) -> None:
    for number in range(5):
        poller.pods.observe("ADDED", pod(front.address, number=number))
    await until_asked(front, 2)
    await settled(poller)
    assert front.num_asked == 2


async def test_an_equal_report_is_not_validated_again(
    front: Front, poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def parse(text: bytes) -> Any:
        parsed.append(text)
        return FrontReport.model_validate_json(text)

    monkeypatch.setattr(module, "parse_report", parse)
    poller.urgent = {("team-a", "finetune-front")}
    poller.pods.observe("ADDED", pod(front.address))
    await eventually_async(poller.report, timeout=5)
    for times in (2, 3):
        poller.clock.advance(1.0)
        await until_asked(front, times)
    await settled(poller)
    assert len(parsed) == 1


async def test_a_poll_rests_after_a_report_that_took_long_to_read(
    front: Front, poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST_FACTOR", 1e9)
    poller.urgent = {("team-a", "finetune-front")}
    poller.pods.observe("ADDED", pod(front.address))
    await eventually_async(poller.report, timeout=5)
    poller.clock.advance(60.0)
    await settled(poller)
    assert front.num_asked == 1
