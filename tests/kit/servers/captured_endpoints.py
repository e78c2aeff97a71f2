"""Two endpoints that capture, with a front, a recorder and an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kit.processes.eventually import eventually_async
from kit.servers.running_front import TOKEN, RunningFront, access, endpoint, running_front, served
from kit.servers.running_recorder import RunningRecorder, capture, running_recorder
from kit.servers.streaming_engine import streaming_engine


@asynccontextmanager
async def endpoints(
    folder: Path, *, has_editors: bool = False, token: str = TOKEN
) -> AsyncIterator[tuple[RunningFront, RunningRecorder]]:
    """Two endpoints that capture, each with keys of its own, and editors of both."""
    async with streaming_engine() as engine:
        spec: dict[str, Any] = {"capture": capture(folder, openToAll=False)}
        if has_editors:
            spec["capture"]["editorsFrom"] = {"secretRef": {"name": "editors"}}
        made = [
            endpoint(served(1, engine.port), access=access("mine"), **spec),
            endpoint(
                served(1, engine.port, "other"), name="other", access=access("theirs"), **spec
            ),
        ]
        async with (
            running_recorder(folder, *made, token=token) as recorder,
            running_front(folder, *made, recorder=recorder.socket, token=token) as front,
        ):
            await front.set_keys("mine", alice="alice", bob="bob")
            await front.set_keys("theirs", eve="eve")
            if has_editors:
                await front.set_keys("editors", ed="ed")
            yield front, recorder


async def ask(
    front: RunningFront, recorder: RunningRecorder, content: str = "hi", **body: Any
) -> str:
    """Ask, wait until the answer is captured, and return the id that a client sees."""
    async with front.ask(content, key="alice", **body) as answer:
        assert answer.status == 200
        found: str = answer.headers["x-request-id"]

    async def is_captured() -> bool:
        return any(row.id == found for row in recorder.keeper.spool.rows_of("headline"))

    await eventually_async(is_captured)
    return f"chatcmpl-{found}"
