"""Versions switch under load: no request fails, and only versions in rotation answer."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest

from kit.servers.running_front import RunningFront, endpoint, running_front, served
from kit.servers.streaming_engine import fail, hang_up, streaming_engine

pytestmark = pytest.mark.slow

NUM_REQUESTS = 2000
NUM_CLIENTS = 8


class Load:
    """Clients that ask one after another, every other time for a stream."""

    def __init__(self, front: RunningFront) -> None:
        self._front = front
        self.num_done = 0
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.by_user: dict[tuple[int, str], set[str]] = {}
        self.allowed: set[str] = set()
        self.period = 0

    async def run(self) -> None:
        numbers = iter(range(NUM_REQUESTS))
        await asyncio.gather(*(self._ask_many(numbers) for _ in range(NUM_CLIENTS)))

    async def _ask_many(self, numbers: Any) -> None:
        for number in numbers:
            await self._ask(number)
            self.num_done += 1

    async def _ask(self, number: int) -> None:
        period, allowed = self.period, set(self.allowed)
        user = f"user-{number % 100}"
        async with self._front.ask(user=user, stream=number % 2 == 1) as answer:
            text = await answer.text()
        version = answer.headers.get("x-finetune-version", "")
        is_whole = text.endswith("[DONE]\n\n") if number % 2 else text.endswith("}")
        if answer.status != 200 or not is_whole or f"headline-v{version}" not in text:
            self.failed.append(f"{answer.status} {text[:200]}")
        if version not in allowed | self.allowed:
            self.wrong.append(version)
        if period == self.period:
            self.by_user.setdefault((period, user), set()).add(version)

    async def until(self, share: float) -> None:
        while self.num_done < share * NUM_REQUESTS:
            await asyncio.sleep(0.005)


async def test_no_request_is_lost_over_two_switches_and_a_rollback(tmp_path: Path) -> None:
    engines = streaming_engine(), streaming_engine()
    async with engines[0] as engine, engines[1] as other, running_front(tmp_path) as front:
        v1, v2 = served(1, engine.port), served(2, other.port)
        v3, v4 = served(3, engine.port), served(4, other.port)
        front.follow(endpoint(v1))
        load = Load(front)
        load.allowed = {"1"}
        running = asyncio.create_task(load.run())
        plan = [
            (endpoint(v1, v2, weight=25), {"1", "2"}),
            (endpoint(v2, previous=v1), {"2"}),
            (endpoint(v2, v3, weight=50, rollout_id="r2"), {"2", "3"}),
            (endpoint(v3, previous=v2), {"3"}),
            (endpoint(v3, v4, weight=50, rollout_id="r3", previous=v2), {"3", "4"}),
        ]
        for number, (wanted, allowed) in enumerate(plan, start=1):
            await load.until(number / 8)
            front.follow(wanted)
            load.allowed, load.period = allowed, number
        await load.until(6 / 8)
        front.follow(endpoint(v3, previous=v2))
        load.allowed, load.period = {"3"}, load.period + 1
        await running
        assert (load.failed, load.wrong) == ([], [])
        assert {len(versions) for versions in load.by_user.values()} == {1}
        assert engine.counts["team-a.headline-v1"] > 0
        assert other.counts["team-a.headline-v4"] > 0


async def test_memory_stays_flat_while_candidates_fail(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        v1, v2 = served(1, engine.port), served(2, engine.port)
        peaks = []
        for number in range(6):
            front.follow(endpoint(v1, v2, weight=50, rollout_id=f"r{number}"))
            engine.behaviours["team-a.headline-v2"] = (fail(500), hang_up)[number % 2]
            load = [front.version_for(f"{number}-{user}") for user in range(200)]
            assert {version for each in load for version in [await each]} == {"1"}
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        assert peaks[-1] - peaks[1] < 8
