"""The shadow: copies of requests for the candidate. Its answers are measured, then discarded."""

from __future__ import annotations

import asyncio
import random

import aiohttp

from finetune_trainer.serve.front.answers import Watched, wants_json
from finetune_trainer.serve.front.calls import Call
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.routes import Route, Served
from finetune_trainer.serve.proxy import open_answer

MAX_OPEN = 8
"""Copies under way at once. Any more are left out, so that the callers' requests go first."""
SECONDS = 120.0


class Shadow:
    """Sends copies, each after the caller has its answer.

    Args:
        session: A client of its own: copies take no connection from the callers' requests.
    """

    def __init__(self, session: aiohttp.ClientSession, metrics: Metrics) -> None:
        self._session = session
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def wants(self, route: Route) -> Served | None:
        """Return the candidate if a copy of this request is to go to it."""
        if not route.shadow_percent or random.random() * 100 >= route.shadow_percent:  # noqa: S311
            return None
        if route.candidate is not None and len(self._tasks) >= MAX_OPEN:
            self._metrics.count_shadow(route.name, str(route.candidate.version), "")
            return None
        return route.candidate

    def send(self, call: Call, served: Served, token: str) -> None:
        """Start a copy of a call that has ended; return at once."""
        task = asyncio.create_task(self._ask(call, served, token))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, call: Call, served: Served, token: str) -> None:
        route, version = call.route, str(served.version)
        url, body, headers = served.url + call.path, call.body_for(served), call.headers(token)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            async with asyncio.timeout(SECONDS):
                opened = await open_answer(self._session, url, body, headers)
                try:
                    seconds = loop.time() - begin
                    watched = Watched(
                        is_stream=opened.is_stream, wants_json=wants_json(call.fields)
                    )
                    piece = opened.first
                    while piece:
                        watched.take(piece)
                        piece = await opened.response.content.readany()
                finally:
                    opened.response.release()
        except (aiohttp.ClientError, TimeoutError, OSError):
            self._metrics.count_shadow(route.name, version, "502")
            return
        self._metrics.count_shadow(route.name, version, str(opened.status))
        is_slow = route.is_slow(seconds)
        for signal in watched.conclude().bad_signals(status=opened.status, is_slow=is_slow):
            self._metrics.count_bad(route.name, version, signal, is_shadow=True)
