"""Reports of serving pods, polled by the leader.

A report is data of a pod, so its size, its time and its form are bounded. Nothing here decides: a
changed report wakes the endpoints that it is about.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import aiohttp

from finetune_api.protocol.serving import (
    MAX_REPORT_BYTES,
    REPORT_PATH,
    REPORT_PORT,
    FrontReport,
    ServerReport,
    parse_report,
)
from finetune_operator.kube.api.resource import Object, ObjectKey, key_of
from finetune_operator.kube.cache.store import EventType, Store
from finetune_operator.kube.clock import Clock

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0
TICK_SECONDS = 0.25
"""Time between two looks for pods that are to be asked."""
FREQUENT_SECONDS = 1.0
"""Time between two reports of a pod that a decision waits for."""
SELDOM_SECONDS = 30.0
"""Time between two reports of any other pod; each time a fifth more or less."""
FORGET_SECONDS = 90.0
"""A pod that has given no report for so long is taken to have none."""
MAX_POLLS = 64
"""Reports asked for at the same time."""

Report: TypeAlias = FrontReport | ServerReport
Target: TypeAlias = tuple[str, str]
"""Namespace and Deployment of serving pods."""
OnNews: TypeAlias = Callable[[Object, Report | None, Report | None], None]
"""Called with a pod and its report before and after; None where there is none."""


@dataclass(slots=True)
class _Polled:
    """What is known of one pod.

    Attributes:
        asked_at: Monotonic time of the last question.
        spread: Factor of the time between two seldom questions.
        report: The last report.
        reported_at: Monotonic time of the last report.
    """

    uid: str
    asked_at: float
    spread: float
    is_asking: bool = False
    report: Report | None = None
    reported_at: float = 0.0


class ServingReports:
    """Asks serving pods for their reports, and keeps the last ones. Event loop only.

    Args:
        pods: The cache of serving pods, as :func:`trim_serving_pod` leaves them.
        urgent: Returns the Deployments whose reports a decision waits for.
        on_news: Called when a report has changed, appeared or vanished.
    """

    def __init__(
        self,
        pods: Store,
        *,
        urgent: Callable[[], set[Target]],
        on_news: OnNews,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._pods = pods
        self._urgent = urgent
        self._on_news = on_news
        self._clock = clock
        self._rng = rng
        self._polled: dict[ObjectKey, _Polled] = {}
        pods.add_handler(self._on_pod)

    def of(self, pod: Object) -> Report | None:
        """Return the last report of a pod, or None."""
        known = self._polled.get(key_of(pod))
        return known.report if known is not None and known.uid == pod["metadata"]["uid"] else None

    async def run(self) -> None:
        """Poll until cancelled; may be called again afterwards."""
        for known in self._polled.values():
            known.is_asking = False
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=MAX_POLLS, limit_per_host=1)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
            asyncio.TaskGroup() as polls,
        ):
            while True:
                for pod in self._due():
                    polls.create_task(self._ask(session, pod))
                await asyncio.sleep(TICK_SECONDS)

    def _due(self) -> Iterable[Object]:
        """Yield the pods to ask now; mark them as asked."""
        now, urgent = self._clock.monotonic(), self._urgent()
        num_free = MAX_POLLS - sum(known.is_asking for known in self._polled.values())
        for pod in self._pods.objects():
            if num_free <= 0:
                return
            if not pod["address"]:
                continue
            metadata = pod["metadata"]
            known = self._polled.get(key_of(pod))
            if known is None or known.uid != metadata["uid"]:
                known = self._polled[key_of(pod)] = _Polled(
                    metadata["uid"], asked_at=-SELDOM_SECONDS * 2, spread=1.0
                )
            is_urgent = (metadata["namespace"], pod["deployment"]) in urgent
            pause = FREQUENT_SECONDS if is_urgent else SELDOM_SECONDS * known.spread
            if known.is_asking or now - known.asked_at < pause:
                continue
            known.asked_at, known.is_asking = now, True
            known.spread = self._rng.uniform(0.8, 1.2)
            num_free -= 1
            yield pod

    async def _ask(self, session: aiohttp.ClientSession, pod: Object) -> None:
        known = self._polled[key_of(pod)]
        try:
            report = await _fetch(session, pod["address"])
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            logger.debug("no report of pod %s: %s", key_of(pod), error)
            if self._clock.monotonic() - known.reported_at >= FORGET_SECONDS:
                self._keep(pod, known, None)
        else:
            known.reported_at = self._clock.monotonic()
            self._keep(pod, known, report)
        finally:
            known.is_asking = False

    def _keep(self, pod: Object, known: _Polled, report: Report | None) -> None:
        before, known.report = known.report, report
        if before != report:
            self._on_news(pod, before, report)

    def _on_pod(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            self._polled.pop(key_of(old), None)


async def _fetch(session: aiohttp.ClientSession, address: str) -> Report:
    """Return the report at an address.

    Raises:
        ValueError: It is no report, or too large.
    """
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{REPORT_PORT}{REPORT_PATH}"
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"{url} answered {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(16 * 1024):
            body += chunk
            if len(body) > MAX_REPORT_BYTES:
                raise ValueError(f"{url} answered more than {MAX_REPORT_BYTES} bytes")
    return parse_report(bytes(body))
