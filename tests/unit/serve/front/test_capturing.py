"""Answers on their way to a recorder that takes some and fails at others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.front import capturing
from finetune_trainer.serve.handover import CAPTURES, MAX_ANSWER_BYTES, read_frames
from finetune_trainer.serve.listening import ProxyServer
from finetune_trainer.serve.proxy import read_body
from kit.processes.eventually import eventually_async
from kit.servers.running_front import RunningFront, access, endpoint, running_front, served
from kit.servers.running_recorder import capture
from kit.servers.streaming_engine import streaming_engine

BAD = b"poison"
CHAT = "/v1/chat/completions"
Behaviour = Callable[[web.BaseRequest], Awaitable[None]]


async def refuse(request: web.BaseRequest) -> None:
    raise Refused(400, "broken_batch", "The batch cannot be read.")


async def fail(request: web.BaseRequest) -> None:
    raise RuntimeError("a defect")


async def hang(request: web.BaseRequest) -> None:
    await asyncio.Event().wait()


async def die(request: web.BaseRequest) -> None:
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


class FragileRecorder:
    """A recorder that does ``behaviour`` to a batch with a bad frame."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.is_full = False
        self.is_hung = False
        self.num_hung = 0
        self.taken: list[bytes] = []
        self.num_batches = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.is_hung:
            self.num_hung += 1
            await hang(request)
        if request.path != CAPTURES:
            return web.Response(body=b"{}")
        frames = list(read_frames(await read_body(request, limit=64 * MAX_ANSWER_BYTES)))
        self.num_batches += 1
        if self.is_full:
            raise Refused(503, "full", "Too much waits for object storage.", retry_seconds=1)
        if any(BAD in frame.request for frame in frames):
            await self.behaviour(request)
        self.taken += [frame.request for frame in frames]
        return web.Response(status=204)

    def has(self, *contents: str) -> bool:
        return all(any(each.encode() in request for request in self.taken) for each in contents)


@asynccontextmanager
async def fragile(
    folder: Path, behaviour: Behaviour = refuse
) -> AsyncIterator[tuple[RunningFront, FragileRecorder, ProxyServer]]:
    """Run a front beside such a recorder, which does not listen yet."""
    recorder = FragileRecorder(behaviour)
    server = ProxyServer(recorder.handle)
    async with streaming_engine() as engine:
        made = endpoint(served(1, engine.port), capture=capture(folder))
        async with running_front(folder, made, recorder=folder / "recorder.sock") as front:
            try:
                yield front, recorder, server
            finally:
                await server.stop(linger_seconds=0, grace_seconds=0)


async def ask(front: RunningFront, *contents: str) -> None:
    for content in contents:
        async with front.ask(content) as answer:
            assert answer.status == 200


def dropped(reason: str, number: int) -> str:
    return f'capture_dropped_total{{finetuneendpoint="headline",reason="{reason}"}} {number}.0'


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [(refuse, "Refused"), (fail, "Refused"), (hang, "TimedOut"), (die, "BrokenOff")],
)
async def test_a_frame_that_cannot_be_taken_is_dropped_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour, reason: str
) -> None:
    if behaviour is hang:
        monkeypatch.setattr(capturing, "SECONDS", 1.0)
    monkeypatch.setattr(capturing, "MAX_PAUSE_SECONDS", 0.1)
    async with fragile(tmp_path, behaviour) as (front, recorder, server):
        await ask(front, "first", "poison", "last")
        await server.start_unix(tmp_path / "recorder.sock")
        await ask(front, "later")

        async def is_dropped() -> bool:
            return dropped(reason, 1) in await front.metrics()

        await eventually_async(is_dropped)
        assert recorder.has("first", "last", "later")
        assert not recorder.has("poison")
        assert len(recorder.taken) == 3
        # All of them together, then each alone, the bad one three times.
        assert recorder.num_batches <= 1 + 3 + 3


async def test_a_recorder_that_is_full_away_or_hung_costs_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "MAX_PAUSE_SECONDS", 0.01)
    async with fragile(tmp_path) as (front, recorder, server):
        await ask(front, "first")
        recorder.is_full = True
        await server.start_unix(tmp_path / "recorder.sock")

        async def was_asked_often() -> bool:
            return recorder.num_batches > 2 * capturing.MAX_FAILURES

        await eventually_async(was_asked_often)
        monkeypatch.setattr(capturing, "SECONDS", 0.05)
        monkeypatch.setattr(capturing, "ALIVE_SECONDS", 0.05)
        recorder.is_full, recorder.is_hung = False, True

        async def has_hung_often() -> bool:
            return recorder.num_hung > 4 * capturing.MAX_FAILURES

        await eventually_async(has_hung_often)
        monkeypatch.setattr(capturing, "SECONDS", 30.0)
        recorder.is_hung = False

        async def is_taken() -> bool:
            return recorder.has("first")

        await eventually_async(is_taken)
        assert "capture_dropped_total{" not in await front.metrics()


@pytest.mark.parametrize(
    ("bounds", "hang", "then"),
    [
        ({"MAX_OPEN_PER_SENDER": 1}, ["a-1"], {"a-2": 503, "b": 200}),
        ({"MAX_OPEN": 4}, ["a-1", "b"], {"c": 503, "d": 200}),
    ],
)
async def test_neither_an_entry_of_keys_nor_an_endpoint_fills_the_recorder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bounds: dict[str, int],
    hang: list[str],
    then: dict[str, int],
) -> None:
    for name, value in bounds.items():
        monkeypatch.setattr(f"finetune_trainer.serve.front.feedback.{name}", value)
    async with fragile(tmp_path) as (front, recorder, server):
        kept = capture(tmp_path, openToAll=False)
        front.follow(
            endpoint(served(1, 1), access=access("mine"), capture=kept),
            endpoint(served(1, 1, "other"), name="other", access=access("others"), capture=kept),
        )
        await front.set_keys("mine", a="a-1 a-2", b="b", c="c")
        await front.set_keys("others", d="d")
        await server.start_unix(tmp_path / "recorder.sock")

        async def ask_about(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            async with front.session.get(f"{front.url}{CHAT}", headers=headers) as answer:
                return answer.status

        recorder.is_hung = True
        hung = [asyncio.ensure_future(ask_about(key)) for key in hang]

        async def all_hang() -> bool:
            return recorder.num_hung == len(hang)

        await eventually_async(all_hang)
        recorder.is_hung = False
        assert {key: await ask_about(key) for key in then} == then
        for each in hung:
            each.cancel()


async def test_one_sender_cannot_fill_the_recorder_with_requests_about_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.feedback.MAX_OPEN_PER_SENDER", 2)
    async with fragile(tmp_path) as (front, recorder, server):
        recorder.is_hung = True
        await server.start_unix(tmp_path / "recorder.sock")
        url = f"{front.url}{CHAT}?model=headline"
        hung = [asyncio.ensure_future(front.session.get(url)) for _ in range(2)]

        async def both_hang() -> bool:
            return recorder.num_hung == 2

        await eventually_async(both_hang)
        async with front.session.get(url) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "overloaded")
            assert answer.headers["Retry-After"]
        await ask(front, "answers still come")
        for each in hung:
            each.cancel()

        async def is_open_again() -> bool:
            recorder.is_hung = False
            async with front.session.get(url) as answer:
                return answer.status == 200

        await eventually_async(is_open_again)
